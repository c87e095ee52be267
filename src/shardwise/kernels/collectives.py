"""Collectives in a node or NVLink domain: all-reduce, all-gather, reduce-scatter, all-to-all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.errors import UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.evaluate import between_ranks
from shardwise.kernels.operator import Ideal, Operator
from shardwise.kernels.provenance import Array, Sizes, Times
from shardwise.kernels.roofline import Rates

#: Algorithm -> algorithms whose efficiency can be used instead, best first.
ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {
    "graph": ("graph", "mnnvl", "nccl", "quick_fp16"),
    "eager": ("eager", "graph", "nccl"),
    "mnnvl": ("mnnvl", "graph", "nccl"),
    "nccl": ("nccl", "graph"),
    "quick_fp16": ("quick_fp16", "graph", "nccl"),
    "quick_fp8": ("quick_fp8", "quick_int8", "quick_fp16"),
    "quick_int8": ("quick_int8", "quick_fp8", "quick_fp16"),
    "quick_int6": ("quick_int6", "quick_int8", "quick_int4", "quick_fp16"),
    "quick_int4": ("quick_int4", "quick_int6", "quick_int8", "quick_fp16"),
}
#: Share of the 16-bit message that a compressing algorithm sends, without scales.
_COMPRESSED: Final = {
    "quick_fp8": 0.5,
    "quick_int8": 0.5,
    "quick_int6": 0.375,
    "quick_int4": 0.25,
}


def relatives(variant: str) -> tuple[str, ...]:
    """Return algorithms whose efficiency can be used instead, best first."""
    return ALGORITHMS[variant]


def _all_reduce(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    """Roofline of an all-reduce. With a switch that reduces in the fabric (NVLink SHARP), each GPU
    sends its message only once."""
    (ranks,), (size,) = shape, work
    sent = 2.0 * (ranks - 1.0) / ranks
    if not rates.mesh_links and not rates.shared_bus:
        sent = np.minimum(sent, 1.0)
    return _wire(rates, ranks, sent * size * _COMPRESSED.get(variant, 1.0))


def _moved_once(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    """Roofline if each rank sends or receives the other ranks' shares of the buffer once."""
    (ranks,), (size,) = shape, work
    return _wire(rates, ranks, (ranks - 1.0) / ranks * size * _COMPRESSED.get(variant, 1.0))


def _wire(rates: Rates, ranks: Array, sent: Array) -> Array:
    return np.asarray(sent / rates.peers(ranks))


def _operator(name: str, least: Ideal) -> Operator:
    return Operator(
        name=name,
        shape=("ranks",),
        weights=(1.0,),
        work=("bytes",),
        ideal=least,
        bound=least,
        relatives=relatives,
    )


ALL_REDUCE: Final = _operator("all_reduce", _all_reduce)
ALL_GATHER: Final = _operator("all_gather", _moved_once)
REDUCE_SCATTER: Final = _operator("reduce_scatter", _moved_once)
ALL_TO_ALL: Final = _operator("all_to_all", _moved_once)


def all_reduce(
    gpu: Gpu, engine: str, ranks: Sizes, size_bytes: Sizes, algorithm: str = "graph"
) -> Times:
    """Time of one all-reduce.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels: "vllm", "sglang", "trtllm", "aiter", "nccl" ("rccl" on AMD).
        ranks: GPUs that take part; 1 takes no time.
        size_bytes: Message of each rank at 16 bits per element, also for compressing algorithms.
        algorithm: A name of `ALGORITHMS`: "graph" is what the engine runs inside a CUDA graph
            (its custom kernel, and NCCL above its size limit), "eager" the same without a graph,
            "nccl" the library alone, "mnnvl" TensorRT-LLM's across nodes of one NVLink domain,
            "quick_int4" and its like AMD's compressing QuickReduce.

    Raises:
        UnknownNameError: The algorithm is unknown.
        InputError: A size is not positive.
    """
    if algorithm not in ALGORITHMS:
        raise UnknownNameError("all-reduce algorithm", algorithm, ALGORITHMS)
    return between_ranks(ALL_REDUCE, gpu, engine, algorithm, ((), ranks), size_bytes)


def all_gather(gpu: Gpu, ranks: Sizes, size_bytes: Sizes) -> Times:
    """Time of one NCCL all-gather; `size_bytes` is the gathered buffer, as in NCCL's tests."""
    return between_ranks(ALL_GATHER, gpu, "nccl", "nccl", ((), ranks), size_bytes)


def reduce_scatter(gpu: Gpu, ranks: Sizes, size_bytes: Sizes) -> Times:
    """Time of one NCCL reduce-scatter; `size_bytes` is each rank's whole input."""
    return between_ranks(REDUCE_SCATTER, gpu, "nccl", "nccl", ((), ranks), size_bytes)


def all_to_all(gpu: Gpu, ranks: Sizes, size_bytes: Sizes) -> Times:
    """Time of one NCCL all-to-all; `size_bytes` is each rank's whole buffer."""
    return between_ranks(ALL_TO_ALL, gpu, "nccl", "nccl", ((), ranks), size_bytes)
