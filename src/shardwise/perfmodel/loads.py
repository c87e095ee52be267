"""Offered load and engine limits as arrays, with the KV capacity."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise.architecture.model import Model
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.perfmodel.memory import Platform, kv_budget_bytes, kv_capacity_tokens, sequence_bytes
from shardwise.workload.workload import TRAFFIC_CV

Array = NDArray[np.float64]
#: Maximum load that memory is profiled for: the engines' default. Requests beyond it queue and use
#: no memory.
PROFILED_TOKENS: Final = 8192.0
PROFILED_SEQS: Final = 1024.0


class Offered(msgspec.Struct, frozen=True):
    """Requests offered to one replica; arrays of one shape. Lengths are means in tokens."""

    concurrency: Array
    isl: Array
    osl: Array
    requests: Array  #: in the whole run, the first `concurrency` of them sent at once
    length_cv: Array | float = TRAFFIC_CV  #: standard deviation of lengths over their mean
    cached_tokens: Array | float = 0.0  #: of `isl`: a beginning that all prompts share
    gather_steps: Array | float = 1.0  #: decode steps over which new requests are gathered
    gather_wait: Array | float = 0.0  #: steps that one of them waits for the others, on average
    lengths_told: NDArray[np.bool_] | bool = True  #: whether `length_cv` is known
    stream_interval: Array | float = 1.0  #: tokens per chunk of a stream, after its first token
    #: tokens of the largest step with prompts that runs as CUDA graphs but for attention; NaN: the
    #: engine's default
    graph_tokens: Array | float = np.nan


class Load(msgspec.Struct, frozen=True):
    """Offered load and engine limits, one element per configuration."""

    layouts: Layouts
    concurrency: Array
    isl: Array
    osl: Array
    requests: Array
    max_num_seqs: Array
    max_num_batched_tokens: Array
    kv_capacity_tokens: Array  #: of one replica
    length_cv: Array | float = TRAFFIC_CV  #: standard deviation of lengths over their mean
    cached_tokens: Array | float = 0.0  #: of `isl`: a beginning that all prompts share
    gather_steps: Array | float = 1.0  #: decode steps over which new requests are gathered
    gather_wait: Array | float = 0.0  #: steps that one of them waits for the others, on average
    steps_ahead: Array | float = 0.0  #: scheduled before a request arrives, beyond `wait_steps`
    stream_interval: Array | float = 1.0  #: tokens per chunk of a stream, after its first token
    #: tokens of the largest step with prompts that runs as CUDA graphs but for attention
    graph_tokens: Array | float = 0.0
    reserves_output: Array | bool = False  #: admission counts a request's whole output
    merges_output: Array | bool = False  #: the server never queues tokens of a stream
    mixed_batches: NDArray[np.bool_] | bool = True  #: prompts and decodes share steps
    lengths_told: NDArray[np.bool_] | bool = True  #: whether `length_cv` is known

    @property
    def new_tokens(self) -> Array:
        """Computed tokens per prompt."""
        return np.asarray(self.isl - self.cached_tokens)

    @property
    def prompt_context(self) -> Array:
        """Mean number of earlier tokens that a computed prompt token attends to."""
        return np.asarray(self.cached_tokens + self.new_tokens / 2.0)

    @property
    def pp_size(self) -> Array:
        """Pipeline stages of each deployment."""
        return self.layouts.pp_size


def held_tokens(
    isl: Array, osl: Array, length_cv: Array | float, *, reserves_output: Array | bool
) -> Array:
    """Return the tokens that admission counts per sequence: current ones, or also future ones.

    Long answers take part in more steps, so the mean answer length in a step is (1 + cv^2) times
    the mean over all requests.
    """
    decoded = osl * (1.0 + np.square(length_cv)) / 2.0
    return np.asarray(isl + decoded * np.where(reserves_output, 2.0, 1.0))


def make_load(
    model: Model,
    platform: Platform,
    kv_dtype: str,
    deployments: Deployments,
    offered: Offered,
    draft: Model | None = None,
) -> Load:
    """Return the load with its KV capacity; `model` in its serving dtype, `draft` the loaded
    draft."""
    profiled = Deployments(
        deployments.layouts,
        np.minimum(deployments.max_num_seqs, PROFILED_SEQS),
        np.minimum(deployments.max_num_batched_tokens, PROFILED_TOKENS),
        deployments.gpu_memory_utilization,
    )
    scheduling = platform.scheduling
    # layers with a window hold less per token of a longer sequence, so the length that is counted
    # at admission has to be the length that the capacity is stated for
    context = held_tokens(
        offered.isl, offered.osl, offered.length_cv, reserves_output=scheduling.reserves_output
    )
    budget = kv_budget_bytes(model, platform, profiled, draft)
    sequence = sequence_bytes(model, context, deployments.layouts, kv_dtype, draft)
    capacity = kv_capacity_tokens(budget, sequence, context, deployments.layouts)
    return Load(
        layouts=deployments.layouts,
        concurrency=offered.concurrency,
        isl=offered.isl,
        osl=offered.osl,
        requests=offered.requests,
        # engine limits apply to each attention rank
        max_num_seqs=deployments.max_num_seqs * deployments.layouts.attention_dp,
        max_num_batched_tokens=(
            deployments.max_num_batched_tokens * deployments.layouts.attention_dp
        ),
        kv_capacity_tokens=np.maximum(capacity, 1.0),
        length_cv=offered.length_cv,
        cached_tokens=np.broadcast_to(offered.cached_tokens, np.shape(offered.isl)),
        gather_steps=offered.gather_steps,
        gather_wait=offered.gather_wait,
        steps_ahead=np.broadcast_to(scheduling.steps_ahead, np.shape(offered.isl)),
        stream_interval=offered.stream_interval,
        graph_tokens=np.where(
            np.isnan(offered.graph_tokens),
            deployments.layouts.gather(
                lambda layout: scheduling.prompt_graphs.tokens(
                    model, layout, drafts=draft is not None
                )
            ),
            offered.graph_tokens,
        ),
        reserves_output=scheduling.reserves_output,
        merges_output=scheduling.merges_output,
        mixed_batches=scheduling.mixed_batches,
        lengths_told=offered.lengths_told,
    )
