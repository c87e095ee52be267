"""Memory that an engine takes at start-up, and the rest for its KV cache."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Number = float | NDArray[np.int64] | NDArray[np.float64]

#: The memory that an engine's memory fraction refers to: the whole GPU, the memory free before the
#: model was loaded, or the memory free after loading and profiling it.
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
    """Memory of a model on the fullest rank. Numbers, or arrays of one shape.

    Attributes:
        weight_bytes: As loaded, padding included.
        forward_bytes: Peak of one forward of `max_num_batched_tokens` tokens.
        logits: `max_num_seqs` x vocabulary; 0 for a model without a head.
        ranks: Number of GPUs per replica.
    """

    weight_bytes: Number
    forward_bytes: Number
    logits: Number
    ranks: Number = 1


class StartupMemory(msgspec.Struct, frozen=True):
    """Memory that an engine takes per GPU besides weights and KV cache.

    Each `*_counted` field says whether the engine subtracts that memory from its budget.
    """

    share: MemoryShare
    context_bytes: Quantity  #: driver context and libraries, before the first tensor
    context_counted: bool  #: whether it is subtracted from the budget
    collective_bytes: Quantity  #: NCCL or RCCL and custom all-reduce buffers; with one rank none
    collective_bytes_without_peers: Quantity  #: the same without peer access between GPUs
    collective_counted: bool
    graph_bytes: Quantity  #: CUDA graphs
    graph_counted: bool  #: if not, they use the memory that the fraction leaves free
    #: of the sampler in the profiling run, for `max_num_seqs` x vocabulary logits
    sampler_bytes_per_logit: Quantity
    activation: str  #: description of the profiling run

    def kv_budget_bytes(
        self,
        load: Load,
        *,
        memory_bytes: Number,
        fraction: Number,
        peer_access: bool = True,
    ) -> Floats:
        """Return the bytes per GPU left for the KV cache; negative if memory is missing.

        Args:
            load: Memory of the model. Fields broadcast.
            memory_bytes: Of the GPU, as the driver reports it.
            fraction: The engine's memory fraction; `share` is what it refers to.
            peer_access: Whether GPUs access each other directly (NVLink, xGMI, PCIe P2P).
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
