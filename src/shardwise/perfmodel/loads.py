"""What an engine is offered and allowed, as arrays, with the memory worked out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwise.architecture.model import Architecture
from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.memory import Ranks, kv_budget_bytes, kv_capacity_tokens
from shardwise.perfmodel.work import Array


@dataclass(frozen=True)
class Load:
    """What is offered and what the engine allows, one element a configuration."""

    tp_size: Array
    pp_size: Array
    concurrency: Array
    isl: Array
    osl: Array
    requests: Array  #: in the whole run, the first `concurrency` of them sent at once
    max_num_seqs: Array
    max_num_batched_tokens: Array
    kv_capacity_tokens: Array  #: of one replica
    expert_ranks: Array  #: that whole experts are spread over; 1 where TP cuts them


@dataclass(frozen=True)
class Limits:
    """Sharding and engine flags of each configuration; arrays of one shape."""

    tp_size: Array
    pp_size: Array
    max_num_seqs: Array
    max_num_batched_tokens: Array
    gpu_memory_utilization: float = 0.9
    expert_parallel: NDArray[np.bool_] | bool = False


def make_load(
    arch: Architecture,
    gpu: Gpu,
    weight_dtype: str,
    kv_dtype: str,
    limits: Limits,
    concurrency: Array,
    isl: Array,
    osl: Array,
    requests: Array,
) -> Load:
    """The load with its KV capacity. What memory is profiled for is capped at what engines
    start with: 8,192 tokens a step and 1,024 sequences."""
    ranks = Ranks(
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        tp_size=limits.tp_size,
        pp_size=limits.pp_size,
        max_num_batched_tokens=np.minimum(limits.max_num_batched_tokens, 8192.0),
        max_num_seqs=np.minimum(limits.max_num_seqs, 1024.0),
        gpu_memory_utilization=limits.gpu_memory_utilization,
    )
    budget = kv_budget_bytes(arch, gpu.memory_bytes, ranks)
    capacity = kv_capacity_tokens(arch, budget, isl + osl / 2.0, ranks)
    return Load(
        tp_size=limits.tp_size,
        pp_size=limits.pp_size,
        concurrency=concurrency,
        isl=isl,
        osl=osl,
        requests=requests,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        kv_capacity_tokens=np.maximum(capacity, 1.0),
        expert_ranks=np.where(limits.expert_parallel, limits.tp_size, 1.0),
    )


def auto_kv_dtype(weight_dtype: str, gpu: Gpu, engine: str) -> str:
    """What `--kv-cache-dtype auto` gives. NVIDIA's fp8 and nvfp4 checkpoints ask for an fp8
    cache themselves, and TensorRT-LLM follows the weights; elsewhere it stays bf16. The built-in
    engine keeps it in the dtype it computes in."""
    if engine == "builtin" and weight_dtype == "fp32":
        return "fp32"
    quantized = weight_dtype in {"fp8", "nvfp4", "fp4"}
    return "fp8" if quantized and (gpu.vendor == "nvidia" or engine == "trtllm") else "bf16"
