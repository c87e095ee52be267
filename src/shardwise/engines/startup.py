"""Memory that an engine takes at start-up, and what it leaves for the KV cache."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Number = float | NDArray[np.int64] | NDArray[np.float64]

#: What an engine's memory fraction is a share of: the whole GPU; what was free before the model
#: was loaded; what is free after it was loaded and profiled.
MemoryShare = Literal["total", "free_before_load", "free_after_load", "none"]


class Quantity(msgspec.Struct, frozen=True):
    """A measured or documented number with its spread.

    `low` and `high` are the smallest and largest value seen.
    """

    value: float
    low: float
    high: float
    source: str


class Load(msgspec.Struct, frozen=True):
    """What a model takes on the fullest rank. Numbers or arrays of one shape.

    Attributes:
        weight_bytes: As loaded, padding included.
        forward_bytes: Peak of one forward of `max_num_batched_tokens` tokens.
        logits: `max_num_seqs` x vocabulary; 0 for a model without a head.
        ranks: GPUs of the replica.
    """

    weight_bytes: Number
    forward_bytes: Number
    logits: Number
    ranks: Number = 1


class StartupMemory(msgspec.Struct, frozen=True):
    """What an engine takes on each GPU beside weights and KV cache, and what its budget counts."""

    share: MemoryShare
    context_bytes: Quantity  #: driver context and libraries, before the first tensor
    context_counted: bool  #: whether it is taken out of the budget
    collective_bytes: Quantity  #: NCCL or RCCL and custom all-reduce buffers, with several ranks
    collective_bytes_without_peers: Quantity  #: the same where GPUs cannot reach each other
    collective_counted: bool
    graph_bytes: Quantity  #: CUDA graphs
    graph_counted: bool  #: otherwise they come out of what the fraction leaves free
    #: of the profiling run's sampler, on `max_num_seqs` rows of whole-vocabulary logits
    sampler_bytes_per_logit: Quantity
    activation: str  #: what the profiling run runs, in words

    def kv_budget_bytes(
        self,
        load: Load,
        *,
        memory_bytes: Number,
        fraction: Number,
        peer_access: bool = True,
    ) -> Floats:
        """Bytes that a GPU has left for its KV cache; negative by what is missing.

        Args:
            load: What the model takes. Fields broadcast.
            memory_bytes: Of the GPU, as the driver reports it.
            fraction: The engine's memory fraction, of what `share` names.
            peer_access: Whether GPUs reach each other directly (NVLink, xGMI, PCIe P2P).
        """
        several = np.asarray(load.ranks) > 1
        reach = self.collective_bytes if peer_access else self.collective_bytes_without_peers
        collective = reach.value * several
        profiled = np.maximum(load.forward_bytes, self.sampler_bytes_per_logit.value * load.logits)
        total, weights = np.asarray(memory_bytes, np.float64), np.asarray(load.weight_bytes)
        outside = self.context_bytes.value + collective
        if self.share == "free_before_load":
            return np.asarray((total - outside) * fraction - weights)
        if self.share == "free_after_load":
            return np.asarray((total - outside - weights - profiled) * fraction)
        if self.share == "none":
            return np.asarray(total - outside - weights - profiled)
        counted = (
            self.context_bytes.value * self.context_counted
            + collective * self.collective_counted
            + self.graph_bytes.value * self.graph_counted
        )
        return np.asarray(total * fraction - weights - counted - profiled)
