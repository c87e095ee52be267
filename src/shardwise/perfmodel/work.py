"""The work of one rank in a step: bytes read and FLOPs executed, before any efficiency.

The work is computed from the rank's shards (`shardwise.layout.shards`), so speed and memory use the
same tensors. Arrays run over layouts, so a sweep over thousands of layouts is vectorized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise.architecture.cache import KV_BYTES
from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.formats import Format
from shardwise.architecture.mixers import Attention, LinearAttention, Mamba2, Mixer, Mla, NoMixer
from shardwise.architecture.model import LayerGroup, Model
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import LayerShard, RankShards, Shard, pieces, rank_shards

Array = NDArray[np.float64]
Kind = Literal["dense", "experts", "head"]
#: Tokens per chunk in which linear attention and state-space layers compute a prompt
#: (flash-linear-attention and Mamba-2 kernels).
STATE_CHUNK = 64


class Stream(msgspec.Struct, frozen=True):
    """Matrices of one kind and format. They are read once per step and multiplied with every token.

    Attributes:
        bytes: Bytes of weights on one rank, scales included.
        flops_per_token: 2 x the weights that a token is multiplied with.
    """

    kind: Kind
    format: Format
    bytes: Array
    flops_per_token: Array


class CacheRead(msgspec.Struct, frozen=True):
    """Cache that a decoding sequence reads in a step, for at most `limit` tokens."""

    limit: float  #: tokens; infinite for full attention
    bytes_per_token: Array
    bytes_per_sequence: Array  #: states, read and written back


class Scores(msgspec.Struct, frozen=True):
    """FLOPs of prefill attention per (query, key) pair, for at most `limit` keys per query."""

    limit: float
    flops_per_pair: Array


class Work(msgspec.Struct, frozen=True):
    """Work per rank of a whole model, summed over stages. Arrays have the shape of the layouts."""

    streams: tuple[Stream, ...]
    reads: tuple[CacheRead, ...]
    scores: tuple[Scores, ...]

    def bytes_of(self, kind: Kind) -> Array:
        """Bytes of all streams of one kind, per rank."""
        return _total([s.bytes for s in self.streams if s.kind == kind])


class _RankWork(msgspec.Struct, frozen=True):
    """`Work` of one layout, in plain numbers."""

    streams: dict[tuple[Kind, Format], tuple[float, float]]
    reads: dict[float, tuple[float, float]]
    scores: dict[float, float]


def rank_work(model: Model, layouts: Layouts, kv_dtype: str) -> Work:
    """Return the work of one rank of `model` in each of `layouts`."""
    found, index = layouts.unique()
    ranks = [_rank_work(model, layout, kv_dtype) for layout in found]

    def column(read: Callable[[_RankWork], float]) -> Array:
        return np.array([read(rank) for rank in ranks], np.float64)[index]

    return Work(
        streams=tuple(
            Stream(
                key[0],
                key[1],
                column(lambda r, key=key: r.streams[key][0]),  # type: ignore[misc]
                column(lambda r, key=key: r.streams[key][1]),  # type: ignore[misc]
            )
            for key in ranks[0].streams
        ),
        reads=tuple(
            CacheRead(
                limit,
                column(lambda r, limit=limit: r.reads[limit][0]),  # type: ignore[misc]
                column(lambda r, limit=limit: r.reads[limit][1]),  # type: ignore[misc]
            )
            for limit in ranks[0].reads
        ),
        scores=tuple(
            Scores(limit, column(lambda r, limit=limit: r.scores[limit]))  # type: ignore[misc]
            for limit in ranks[0].scores
        ),
    )


@lru_cache(maxsize=4096)
def _rank_work(model: Model, layout: Layout, kv_dtype: str) -> _RankWork:
    rank = rank_shards(model, layout)
    reads: dict[float, tuple[float, float]] = {}
    scores: dict[float, float] = {}
    for layer in rank.layers:
        for limit, per_token, per_sequence in _reads(layer, kv_dtype):
            token, sequence = reads.get(limit, (0.0, 0.0))
            count = layer.group.count
            reads[limit] = (token + count * per_token, sequence + count * per_sequence)
        for limit, flops in _scores(layer.group.mixer, layout.tp_size):
            scores[limit] = scores.get(limit, 0.0) + layer.group.count * flops
    return _RankWork(_streams(rank), reads, scores)


def elementwise_bytes(model: Model, layout: Layout) -> float:
    """Return the bytes per token that norms and activations of all layers move."""
    return sum(
        layer.group.count * _elementwise(model, layer, layout.tp_size)
        for layer in rank_shards(model, layout).layers
    )


def small_kernels(model: Model) -> int:
    """Return the number of small kernels in a step that have no table: norms, rotary embeddings,
    cache writes, activations and routing. GEMMs' times include the quantization of their inputs."""
    return sum(group.count * _small_kernels(group) for group in model.groups)


def _small_kernels(group: LayerGroup) -> int:
    norms = sum(t.part == "norm" for t in group.tensors)
    mixer = 0 if isinstance(group.mixer, NoMixer) else 3 if isinstance(group.mixer, Mla) else 2
    feed_forward = 0
    if isinstance(group.feed_forward, Moe):
        # top-k; shared experts: activation, sum. Experts' calls include their own
        feed_forward = 1 + 2 * bool(group.feed_forward.shared_width)
    elif isinstance(group.feed_forward, Mlp):
        feed_forward = 1
    return norms + mixer + feed_forward


def launched_kernels(model: Model) -> int:
    """Return the number of kernels in a step that the host launches if no graph does: small ones,
    matrix products, attention and experts. vLLM 0.20.2 on H100 launches 13 to 14 for a layer of a
    dense model and 19 for one of Qwen3-30B-A3B (results/step_by_kernel.json)."""
    return sum(
        group.count * (_small_kernels(group) + _large_kernels(group)) for group in model.groups
    )


def _large_kernels(group: LayerGroup) -> int:
    mixer = 0 if isinstance(group.mixer, NoMixer) else 5
    if isinstance(group.mixer, Mla):
        mixer = 9  # down and up projections, both absorbed products
        mixer += 5 * (group.mixer.indexer is not None)
    elif isinstance(group.mixer, LinearAttention):
        # three projections, convolution, gating, two norms of queries and keys; sums, products,
        # inverse, weights, states and outputs of chunks (vllm/.../layers/fla/ops/chunk.py)
        mixer = 13
    elif isinstance(group.mixer, Mamba2):
        # two projections, convolution; sums, states, passing, products and scan of chunks
        # (vllm/.../layers/mamba/ops/ssd_combined.py)
        mixer = 8
    if isinstance(group.feed_forward, Moe):
        # router; sort and align, two products, activation, sum, quantization of both inputs
        return mixer + 8 + 2 * bool(group.feed_forward.shared_width)
    return mixer + (3 if isinstance(group.feed_forward, Mlp) else 0)


def norm_messages(model: Model) -> int:
    """Return the all-reduces of norms over all heads of a sharded query or key, one number per
    token (MiniMax-M2: vllm/model_executor/layers/mamba/linear_attn.py, MiniMaxText01RMSNormTP)."""
    return sum(
        group.count
        * sum(t.part == "norm" and t.rows > group.mixer.head_dim for t in group.mixer.tensors)
        for group in model.groups
        if isinstance(group.mixer, Attention)
    )


def message_count(model: Model) -> int:
    """Return the all-reduces of a step: after each mixer, each feed-forward and the embedding."""
    return 1 + sum(group.count * _messages(group) for group in model.groups)


def _streams(rank: RankShards) -> dict[tuple[Kind, Format], tuple[float, float]]:
    found: dict[tuple[Kind, Format], tuple[float, float]] = {}

    def add(kind: Kind, shard: Shard, count: int, used: float) -> None:
        key = (kind, shard.tensor.format)
        read, flops = found.get(key, (0.0, 0.0))
        found[key] = (read + count * shard.bytes, flops + count * 2.0 * shard.parameters * used)

    for layer in rank.layers:
        feed_forward = layer.group.feed_forward
        for shard in layer.shards:
            if not shard.tensor.gemm:
                continue
            if shard.tensor.part == "experts" and isinstance(feed_forward, Moe):
                add("experts", shard, layer.group.count, feed_forward.top_k / shard.tensor.copies)
            else:
                add("dense", shard, layer.group.count, 1.0)
    head = rank.model.head
    for shard in rank.outer:
        if shard.tensor is head:
            add("head", shard, 1, 1.0)
    return found


def _reads(layer: LayerShard, kv_dtype: str) -> Iterable[tuple[float, float, float]]:
    """Yield (limit in tokens, bytes per token up to it, bytes per sequence) of each cache."""
    indexer = getattr(layer.group.mixer, "indexer", None)
    for shard in layer.caches:
        cache = shard.cache
        each = shard.elements * KV_BYTES[cache.dtype or kv_dtype]
        if cache.per_sequence:
            yield float("inf"), 0.0, 2.0 * each
            continue
        limit = float(cache.window or "inf")
        if indexer is not None and cache.name != "indexer":
            limit = min(limit, float(indexer.top_k) * cache.stride)
        yield limit, each / cache.stride, 0.0


def _scores(mixer: Mixer, tp_size: int) -> Iterable[tuple[float, float]]:
    """Yield (limit in tokens, FLOPs per query and key pair) of a layer's prefill attention."""
    if isinstance(mixer, NoMixer):
        return
    if isinstance(mixer, LinearAttention):
        # attention within a chunk, plus the update and read of the state spread over the chunk
        heads = pieces(mixer.num_v_heads, tp_size)
        state = 4.0 * mixer.head_k_dim * mixer.head_v_dim / STATE_CHUNK
        yield STATE_CHUNK, heads * (2.0 * (mixer.head_k_dim + mixer.head_v_dim) + state)
        return
    if isinstance(mixer, Mamba2):
        heads = pieces(mixer.num_heads, tp_size)
        state = 4.0 * mixer.state_size * mixer.head_dim / STATE_CHUNK
        yield STATE_CHUNK, heads * (2.0 * (mixer.state_size + mixer.head_dim) + state)
        return
    heads = pieces(mixer.num_heads, tp_size)
    limit = float("inf")
    if isinstance(mixer, Attention):
        limit = float(mixer.window or mixer.chunk or "inf")
        width = mixer.head_dim + mixer.value_dim
    else:
        limit = float(mixer.window or "inf")
        width = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim + mixer.v_head_dim
    if mixer.indexer is not None:
        yield float("inf"), 2.0 * mixer.indexer.num_heads * mixer.indexer.head_dim
        limit = min(limit, float(mixer.indexer.top_k))
    yield limit, 2.0 * heads * width


def _elementwise(model: Model, layer: LayerShard, tp_size: int) -> float:
    """Return the bytes per token that norms and activations of a layer move, in 16 bits.

    Each of two norms reads the output and the residual and writes both. The mixer's vectors are
    read and written once more for rotation, cache and quantization. An MLP's activation reads two
    vectors and writes one. Activations of experts are included in the expert tables.
    """
    feed_forward = layer.group.feed_forward
    width = feed_forward.width if isinstance(feed_forward, Mlp) else 0.0
    mixer = _mixer_width(layer.group.mixer)
    return 2.0 * (8.0 * model.hidden_size + (4.0 * mixer + 3.0 * width) / tp_size)


def _mixer_width(mixer: Mixer) -> float:
    if isinstance(mixer, Attention):
        return mixer.num_heads * mixer.head_dim
    if isinstance(mixer, Mla):
        return mixer.num_heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    if isinstance(mixer, LinearAttention):
        return mixer.num_v_heads * mixer.head_v_dim
    if isinstance(mixer, Mamba2):
        return mixer.num_heads * mixer.head_dim
    return 0.0


def _messages(group: LayerGroup) -> int:
    """Return the all-reduces of one layer: one after each part with a row-parallel matrix."""
    parts = (group.mixer.tensors, group.feed_forward.tensors)
    return sum(any(t.cut == "cols" for t in tensors) for tensors in parts)


def _total(arrays: Sequence[Array]) -> Array:
    return np.asarray(sum(arrays, np.zeros(())))
