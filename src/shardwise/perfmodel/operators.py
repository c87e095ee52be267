"""The operators of a step on one rank, and the time of their kernels.

A step of a model in a layout is a list of operators with the shapes of one rank: fused GEMMs,
routed experts, attention over a cache or a prompt, and collectives. Kernel times do not depend on
fitted coefficients. They are computed once for each model, GPU, engine, KV dtype and layout, over a
grid of tokens, sequences and contexts. The time of a step is interpolated from this grid.

GEMM times are split into a memory-bound part (weights) and a compute-bound part (arithmetic), in
proportion to the roofline times at datasheet rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.formats import Format
from shardwise.architecture.mixers import Attention, Mla
from shardwise.architecture.model import Model
from shardwise.engines.device import device_of
from shardwise.engines.facts import Scheduling
from shardwise.engines.registry import get
from shardwise.hardware.gpu import Gpu
from shardwise.kernels import experts as experts_kernel
from shardwise.kernels import gemm as gemm_kernel
from shardwise.kernels import typical_error
from shardwise.kernels.experts import touched
from shardwise.kernels.formats import format_of, runs_as
from shardwise.kernels.provenance import Provenance
from shardwise.kernels.roofline import rates_of
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import RankShards, expert_ranks, rank_shards
from shardwise.perfmodel.attention_operators import decode_seconds, prefill_seconds
from shardwise.perfmodel.best_tables import fastest, own_or_fastest
from shardwise.perfmodel.context_parallel import MESSAGES, merge_seconds
from shardwise.perfmodel.grids import TOKENS
from shardwise.perfmodel.messages import Node, exchange_seconds, hops, reduce_seconds
from shardwise.perfmodel.routing import as_served
from shardwise.perfmodel.timed_alone import whole_experts, whole_product
from shardwise.perfmodel.work import (
    elementwise_bytes,
    launched_kernels,
    message_count,
    norm_messages,
    small_kernels,
)

Array = NDArray[np.float64]

#: Columns of the table over a rank's tokens.
GEMM_WEIGHTS, GEMM_MATRIX, REDUCE, ELEMENTWISE = range(4)
#: Columns of the table over a stage's tokens, all attention replicas together.
EXPERT_WEIGHTS, EXPERT_MATRIX, EXCHANGE = range(3)
#: Sharpness of the split of a GEMM's time into memory-bound and compute-bound parts.
SHARE_POWER: Final = 4.0
#: Share of the memory bandwidth that norms and activations reach.
ELEMENTWISE_SHARE: Final = 0.8


#: Names of formats in the tables: first with arithmetic in the format, then weight-only.
_NAMED: Final = {"fp32": "fp32", "nvfp4": "nvfp4", "int8": "int8", "int4": "int4_wo"}
_WEIGHT_ONLY: Final = {
    "nvfp4": "w4a16_mxfp4",
    "int4": "int4_wo",
    "nf4": "int4_wo",
    **dict.fromkeys(("int8", "fp8", "mxfp8", "mxfp6"), "int8_wo"),
}


class Product(msgspec.Struct, frozen=True):
    """`count` products of (tokens x k) by (k x n) in a step of one rank."""

    name: str
    format: str  #: of the kernel tables
    n: int
    k: int
    count: int


class Experts(msgspec.Struct, frozen=True):
    """Routed experts of `count` layers: grouped products."""

    format: str
    hidden: int
    inter: int
    num_experts: int
    top_k: int
    ep_size: int
    gated: bool
    count: int


def kernel_format(fmt: Format, gpu: Gpu) -> str:
    """Return the name of a weight format in the kernel tables.

    Formats with 16-bit activations run as weight-only kernels. The exception is MXFP4 on GPUs with
    fp4 matrix units, where engines quantize its activations to 8 bits.
    """
    wide = fmt.activations in ("bf16", "fp16")
    if fmt.dtype == "mxfp4":
        if not wide:
            return "mxfp4"
        return "w4a8_mxfp4_mxfp8" if "fp4" in gpu.flops else "w4a16_mxfp4"
    if fmt.dtype in _WEIGHT_ONLY and wide:
        return _WEIGHT_ONLY[fmt.dtype]
    if fmt.dtype in ("fp8", "mxfp8"):
        return "fp8_block" if min(fmt.block) > 1 or fmt.dtype == "mxfp8" else "fp8"
    return _NAMED.get(fmt.dtype, "bf16")


def products(rank: RankShards, gpu: Gpu) -> list[Product]:
    """Return the dense GEMMs of a step, summed over all stages, without the output head."""
    return [
        Product(
            gemm.name,
            kernel_format(gemm.parts[0].tensor.format, gpu),
            gemm.n,
            gemm.k,
            layer.group.count,
        )
        for layer in rank.layers
        for gemm in layer.gemms
        if gemm.part != "experts"
    ]


def head_products(rank: RankShards, gpu: Gpu) -> list[Product]:
    """Return the output head: one GEMM over the tokens that need logits."""
    head = rank.model.head
    return [
        Product("lm_head", kernel_format(s.tensor.format, gpu), s.rows, s.cols, 1)
        for s in rank.outer
        if s.tensor is head
    ]


def expert_operators(rank: RankShards, gpu: Gpu) -> list[Experts]:
    """Return the routed experts of each MoE layer group."""
    layout = rank.layout
    found = []
    for layer in rank.layers:
        moe = layer.group.feed_forward
        if not isinstance(moe, Moe):
            continue
        tensor = next(t for t in moe.tensors if t.part == "experts")
        found.append(
            Experts(
                kernel_format(tensor.format, gpu),
                moe.expert_input,
                max(1, -(-moe.expert_width // expert_ranks(layout))),
                moe.num_experts,
                moe.top_k,
                layout.ep_size,
                moe.gated,
                layer.group.count,
            )
        )
    return found


class StepKernels(msgspec.Struct, frozen=True, eq=False):
    """Kernel times of a step over the grids, in seconds, and other inputs of the step time.

    The first axis of every table runs over the distinct subjects (layouts, or models and layouts).
    `index` gives the subject of each element of a sweep.
    """

    index: NDArray[np.int64]
    dense: Array  #: (subjects, TOKENS, GEMM_WEIGHTS .. ELEMENTWISE)
    experts: Array | None  #: (subjects, TOKENS, EXPERT_WEIGHTS .. EXCHANGE)
    head: Array  #: (subjects, TOKENS)
    decode: Array  #: (subjects, SEQUENCES, CONTEXTS)
    merge: Array  #: (subjects, SEQUENCES): between ranks that share a cache
    prefill: Array  #: (subjects, TOKENS, CONTEXTS)
    least_prefill: Array  #: (subjects,) of `prefill` that a call for decodes too does without
    query_tokens: Array  #: (subjects,) tokens per decoding sequence; above 1 to verify drafts
    launched: Array  #: kernels per step that the host launches without a graph
    small: Array  #: kernels per step that have no table
    messages: Array  #: all-reduces per step
    ranks: Array  #: ranks of an all-reduce
    attention_dp: Array
    hop_s: Array  #: seconds to send one token to the next pipeline stage
    hop_latency_s: Array  #: latency of that transfer between nodes, in seconds
    kernel_error: Array  #: typical relative error of a decode step's kernels, by their provenance

    def of(self, values: Array) -> Array:
        """Return the subject's value for each element."""
        return np.asarray(values[self.index])


@lru_cache(maxsize=256)
def _tables(model: Model, node: Node, kv_dtype: str, layouts: tuple[Layout, ...]) -> StepKernels:
    gpu, engine = node.gpu, node.engine
    facts = get(engine).scheduling(device_of(gpu), node.version)
    ranks = [rank_shards(model, layout) for layout in layouts]
    dense = np.zeros((len(layouts), len(TOKENS), 4))
    errors = _Errors(len(layouts))
    dense[..., GEMM_WEIGHTS], dense[..., GEMM_MATRIX] = _product_seconds(
        gpu, engine, [products(rank, gpu) for rank in ranks], errors
    )
    head = sum(
        _product_seconds(gpu, engine, [head_products(rank, gpu) for rank in ranks], errors),
        np.zeros(()),
    )
    hidden = model.hidden_size * (4.0 if model.checkpoint_dtype == "fp32" else 2.0)
    dense[..., REDUCE] = message_count(model) * reduce_seconds(node, layouts, TOKENS * hidden)
    if model.checkpoint_dtype != "fp32" and (extra := norm_messages(model)):
        dense[..., REDUCE] += extra * reduce_seconds(node, layouts, 4.0 * TOKENS, False)
    passes = np.array([elementwise_bytes(model, layout) for layout in layouts])
    rate = ELEMENTWISE_SHARE * gpu.memory_bandwidth
    dense[..., ELEMENTWISE] = passes[:, None] * TOKENS / rate
    experts = None
    if model.moe is not None:
        experts = np.zeros((len(layouts), len(TOKENS), 3))
        routed = [expert_operators(rank, gpu) for rank in ranks]
        experts[..., EXPERT_WEIGHTS], experts[..., EXPERT_MATRIX] = _expert_seconds(
            gpu, engine, routed, errors
        )
        sent = _gathered_bytes(gpu, routed[0][0].format, facts)
        experts[..., EXCHANGE] = exchange_seconds(node, model, layouts, TOKENS, sent)
    decode = decode_seconds(ranks, gpu, engine, kv_dtype, errors.add)
    prefill, least = prefill_seconds(ranks, gpu, engine, kv_dtype)
    count = np.ones(len(layouts))
    hop = np.array([hops(node, layout, 2.0 * model.hidden_size) for layout in layouts])
    return StepKernels(
        index=np.arange(len(layouts)),
        dense=dense,
        experts=experts,
        head=np.asarray(head),
        decode=decode,
        merge=merge_seconds(ranks, gpu),
        prefill=prefill,
        least_prefill=least * facts.one_attention_call,
        query_tokens=count,
        launched=launched_kernels(model) * count,
        small=small_kernels(model) * count,
        messages=message_count(model) + MESSAGES * np.array([_shared(rank) for rank in ranks]),
        ranks=np.array([float(x.tp_size) for x in layouts]),
        attention_dp=np.array([float(x.attention_dp) for x in layouts]),
        hop_s=hop[:, 0],
        hop_latency_s=hop[:, 1],
        kernel_error=errors.mean,
    )


def _gathered_bytes(gpu: Gpu, name: str, facts: Scheduling) -> float:
    """Return the bytes per value of an expert's input between data-parallel ranks."""
    made = runs_as(rates_of(gpu), name)
    return format_of(made).activation_bytes if made in facts.gathers_quantized else 2.0


def _shared(rank: RankShards) -> float:
    """Return the number of layers whose cache is sharded by DCP."""
    if rank.layout.dcp_size == 1:
        return 0.0
    groups = (layer.group for layer in rank.layers)
    return float(sum(g.count for g in groups if isinstance(g.mixer, Attention | Mla)))


def step_kernels(
    model: Model, node: Node, kv_dtype: str, layouts: Layouts, query_tokens: int = 1
) -> StepKernels:
    """Return the kernel times of a step of `model` in each of `layouts`.

    Each decoding sequence has `query_tokens` tokens in the step.
    """
    found, index = layouts.unique()
    tables = _tables(model, node, kv_dtype, tuple(found))
    if query_tokens > 1:
        tables = _verifying(model, node, kv_dtype, tuple(found), query_tokens)
    return replace(tables, index=index)


@lru_cache(maxsize=64)
def _verifying(
    model: Model, node: Node, kv_dtype: str, layouts: tuple[Layout, ...], query_tokens: int
) -> StepKernels:
    """Return tables of steps in which each sequence verifies `query_tokens` tokens."""
    tables = _tables(model, node, kv_dtype, layouts)
    ranks = [rank_shards(model, layout) for layout in layouts]
    unused = _Errors(len(layouts))
    decode = decode_seconds(ranks, node.gpu, node.engine, kv_dtype, unused.add, query_tokens)
    return replace(
        tables,
        decode=np.maximum(tables.decode, decode),  # tables with more heads may have faster kernels
        query_tokens=query_tokens * np.ones(len(layouts)),
    )


class _Errors:
    """Typical error of a decode step's kernels, weighted by their time."""

    def __init__(self, layouts: int) -> None:
        self.seconds, self.weighed = np.full(layouts, 1e-12), np.zeros(layouts)

    def add(self, layout: int, seconds: float, error: float) -> None:
        self.seconds[layout] += seconds
        self.weighed[layout] += seconds * error

    @property
    def mean(self) -> Array:
        return np.asarray(self.weighed / self.seconds)


def _flat(lists: Sequence[Sequence[Product]]) -> Iterator[tuple[int, Product]]:
    for place, some in enumerate(lists):
        for one in some:
            yield place, one


def _product_seconds(
    gpu: Gpu, engine: str, by_layout: Sequence[Sequence[Product]], errors: _Errors
) -> tuple[Array, Array]:
    """Return seconds of all GEMMs by layout and tokens: memory-bound and compute-bound parts."""
    memory = np.zeros((len(by_layout), len(TOKENS)))
    matrix = np.zeros_like(memory)
    rates = rates_of(gpu)
    merged: dict[str, dict[tuple[int, int], dict[int, int]]] = {}
    for place, one in _flat(by_layout):
        counts = merged.setdefault(one.format, {}).setdefault((one.n, one.k), {})
        counts[place] = counts.get(place, 0) + one.count
    for form, shapes in merged.items():
        n, k = (np.array(c)[:, None] for c in zip(*shapes, strict=True))
        times = fastest(
            lambda e, f=form, n=n, k=k: gemm_kernel(gpu, e, f, TOKENS, n, k),  # type: ignore[misc]
            engine,
        )
        made = format_of(runs_as(rates, form))
        times = whole_product(times, made.activation_bytes < 2.0)
        arithmetic = 2.0 * TOKENS * n * k / rates.matrix(made.rate)
        moved = n * k * made.weight_bytes + TOKENS * (2.0 * n + made.activation_bytes * k)
        share = _share(arithmetic, moved / rates.memory)
        for shape, counts in enumerate(shapes.values()):
            error = _typical("gemm", times.provenance[shape])
            for place, count in counts.items():
                seconds = count * times.seconds[shape]
                memory[place] += seconds * (1.0 - share[shape])
                matrix[place] += seconds * share[shape]
                errors.add(place, float(seconds[_JUDGED]), error)
    return memory, matrix


def _expert_seconds(
    gpu: Gpu, engine: str, by_layout: Sequence[Sequence[Experts]], errors: _Errors
) -> tuple[Array, Array]:
    """Return the same for routed experts, by tokens of the whole stage."""
    memory = np.zeros((len(by_layout), len(TOKENS)))
    matrix = np.zeros_like(memory)
    rates = rates_of(gpu)
    kinds: dict[tuple[str, bool], list[tuple[int, Experts]]] = {}
    for place, some in enumerate(by_layout):
        for one in some:
            kinds.setdefault((one.format, one.gated), []).append((place, one))
    for (form, gated), found in kinds.items():
        places = np.array([place for place, _ in found])

        def column(name: str, found: list[tuple[int, Experts]] = found) -> Array:
            return np.array([[float(getattr(one, name))] for _, one in found])

        hidden, inter, number = column("hidden"), column("inter"), column("num_experts")
        top_k, ep_size = column("top_k"), column("ep_size")
        sizes = (TOKENS, hidden, inter, number, top_k, ep_size, gated)
        times = own_or_fastest(lambda e, f=form, s=sizes: experts_kernel(gpu, e, f, *s), engine)  # type: ignore[misc]
        times = whole_experts(times)
        made = format_of(runs_as(rates, form))
        weights = (3.0 if gated else 2.0) * hidden * inter
        rows = TOKENS * top_k / ep_size
        own = np.maximum(number / ep_size, 1.0)
        share = _share(
            2.0 * rows * weights / rates.matrix(made.rate),
            touched(own, rows) * weights * made.weight_bytes / rates.memory,
        )
        seconds = column("count") * as_served(times, share, number, top_k)
        np.add.at(memory, places, seconds * (1.0 - share))
        np.add.at(matrix, places, seconds * share)
        for place, taken, codes in zip(places, seconds, times.provenance, strict=True):
            errors.add(int(place), float(taken[_JUDGED]), _typical("experts", codes))
    return memory, matrix


def _share(arithmetic: Array, memory: Array) -> Array:
    """Return the compute-bound share of a GEMM's time."""
    return np.asarray(1.0 / (1.0 + (memory / arithmetic) ** SHARE_POWER))


#: Index of the token count at which kernel errors are evaluated: a decode step of 32 tokens.
_JUDGED: Final = int(np.argmin(np.abs(TOKENS - 32.0)))


def _typical(operator: str, provenance: NDArray[np.uint8]) -> float:
    """Return the typical error of a kernel at the token count `_JUDGED`."""
    return typical_error(operator, Provenance(int(provenance[_JUDGED])))
