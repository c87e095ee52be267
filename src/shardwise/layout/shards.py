"""What one rank holds of a model; the only code that shards tensors and caches.

Memory, speed, `explain` and the tables of the catalogue use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from shardwise.architecture.cache import KV_BYTES, Cache
from shardwise.architecture.model import LayerGroup, Model
from shardwise.architecture.tensor import Part, Tensor
from shardwise.layout.deployment import Layout
from shardwise.layout.stages import layers_by_stage

Floats = NDArray[np.float64]
#: Engines pad the vocabulary to a multiple of this before they cut it (vLLM:
#: DEFAULT_VOCAB_PADDING_SIZE in vocab_parallel_embedding.py).
VOCAB_MULTIPLE: Final = 64


class Shard(msgspec.Struct, frozen=True):
    """A rank's shard of one tensor: `rows` x `cols`, `copies` times."""

    tensor: Tensor
    rows: int
    cols: int
    copies: int

    @property
    def parameters(self) -> int:
        """Parameters that this rank holds of the tensor."""
        return self.rows * self.cols * self.copies

    @property
    def bytes(self) -> float:
        """Bytes with scales."""
        return self.copies * self.tensor.format.size(self.rows, self.cols)

    @property
    def held_bytes(self) -> float:
        """Bytes that it adds to a rank's memory: none if an earlier layer stores it."""
        return 0.0 if self.tensor.reused else self.bytes


class CacheShard(msgspec.Struct, frozen=True):
    """What a rank keeps of one layer's cache: `elements` an entry, in the mean over the ranks
    that share its tokens."""

    cache: Cache
    elements: float

    def bytes_of(self, context_tokens: ArrayLike, kv_dtype: str) -> Floats:
        """Bytes for one sequence of `context_tokens`. Broadcasts."""
        tokens = np.asarray(context_tokens, np.float64)
        each = self.elements * KV_BYTES[self.cache.dtype or kv_dtype]
        if self.cache.per_sequence:
            return np.full(tokens.shape, each)
        kept = np.minimum(tokens, self.cache.window) if self.cache.window else tokens
        return np.asarray(kept / self.cache.stride * each)


class Gemm(msgspec.Struct, frozen=True):
    """`count` multiplications of (m x k) by (k x n) in one layer of one rank.

    `parts` are the shards fused into it; `m` is not in it, since it is the step's.
    """

    name: str
    n: int
    k: int
    parts: tuple[Shard, ...]

    @property
    def part(self) -> Part:
        """Part of the model that the GEMM belongs to."""
        return self.parts[0].tensor.part

    @property
    def bytes(self) -> float:
        """Weight bytes that this rank reads."""
        return sum(shard.bytes for shard in self.parts)


class LayerShard(msgspec.Struct, frozen=True, dict=True):
    """One layer of a group as one rank holds it."""

    group: LayerGroup
    shards: tuple[Shard, ...]
    caches: tuple[CacheShard, ...]

    @cached_property
    def bytes(self) -> float:
        """Weight bytes that the layer adds to this rank."""
        return sum(shard.held_bytes for shard in self.shards)

    @cached_property
    def gemms(self) -> tuple[Gemm, ...]:
        """Fused matrix multiplications, in the order of the tensors."""
        return fuse(self.shards)

    def cache_bytes(self, context_tokens: ArrayLike, kv_dtype: str) -> Floats:
        """Bytes that one sequence of `context_tokens` takes in this layer."""
        zero = np.zeros(np.shape(context_tokens))
        return np.asarray(sum((c.bytes_of(context_tokens, kv_dtype) for c in self.caches), zero))


class RankShards(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What each rank of a layout holds of a model.

    Attributes:
        layers: One entry for each group of the model: one layer of it on one rank.
        outer: Embedding, head and final norm; `first` and `last` say which stages have them.
        stages: Layers of each group in each pipeline stage, shape (stages, groups).
    """

    model: Model
    layout: Layout
    layers: tuple[LayerShard, ...]
    outer: tuple[Shard, ...]
    stages: tuple[tuple[int, ...], ...]

    @cached_property
    def stage_bytes(self) -> tuple[float, ...]:
        """Bytes of weights on one rank of each stage; towers are on the first."""
        return tuple(
            sum(n * layer.bytes for n, layer in zip(counts, self.layers, strict=True))
            + sum(shard.bytes for shard in self.outer_of(stage))
            + (self.tower_bytes if stage == 0 else 0.0)
            for stage, counts in enumerate(self.stages)
        )

    @property
    def tower_bytes(self) -> float:
        """Bytes of the vision and audio towers on a rank: they are cut by TP (vLLM's default,
        `mm_encoder_tp_mode` "weights")."""
        return sum(tower.bytes for tower in self.model.towers) / self.layout.tp_size

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights on the fullest rank."""
        return max(self.stage_bytes)

    def outer_of(self, stage: int) -> tuple[Shard, ...]:
        """The embedding on the first stage, head and final norm on the last.

        A tied embedding is on both, once where they are one stage.
        """
        last = len(self.stages) - 1
        return tuple(s for s in self.outer if stage in _homes(s.tensor, last, self.model))

    def cache_bytes(self, context_tokens: ArrayLike, kv_dtype: str) -> Floats:
        """Bytes of cache of one sequence on a rank of each stage: shape (stages, ...)."""
        each = [layer.cache_bytes(context_tokens, kv_dtype) for layer in self.layers]
        return np.array(
            [sum(n * b for n, b in zip(counts, each, strict=True)) for counts in self.stages]
        )

    def parameters(self, *parts: Part) -> float:
        """Weights of the whole model on the ranks of one pipeline (all stages added up)."""
        wanted = set(parts)
        layers = sum(
            layer.group.count * shard.parameters
            for layer in self.layers
            for shard in layer.shards
            if not shard.tensor.reused and (not wanted or shard.tensor.part in wanted)
        )
        outer = sum(s.parameters for s in self.outer if not wanted or s.tensor.part in wanted)
        return layers + outer


def _homes(tensor: Tensor, last: int, model: Model) -> set[int]:
    """Stages that hold an outer tensor."""
    if tensor.part == "embedding":
        return {0, last} if model.tie_embeddings else {0}
    return {last}


@lru_cache(maxsize=4096)
def rank_shards(model: Model, layout: Layout) -> RankShards:
    """What each rank holds of `model` (by identity: models compare as objects) in `layout`."""
    return RankShards(
        model=model,
        layout=layout,
        layers=tuple(_layer(group, layout) for group in model.groups),
        outer=tuple(_shard(tensor, layout) for tensor in model.outer),
        stages=layers_by_stage([group.layers for group in model.groups], layout.pp_size),
    )


def _layer(group: LayerGroup, layout: Layout) -> LayerShard:
    caches = tuple(
        CacheShard(c, pieces(c.units, layout.tp_size) * c.elements / c.units / _sharers(c, layout))
        for c in group.mixer.caches
    )
    return LayerShard(group, tuple(_shard(t, layout) for t in group.tensors), caches)


def _sharers(cache: Cache, layout: Layout) -> int:
    """Ranks that share the tokens of a cache in turn; states and windows stay whole."""
    return 1 if cache.per_sequence or cache.window else layout.dcp_size


def _shard(tensor: Tensor, layout: Layout) -> Shard:
    """A rank's part of `tensor`.

    Experts are spread over `ep_size` ranks whole, and cut over what is left of the stage's ranks.
    Everything else is cut over `tp_size`; data-parallel attention copies it. With several pipeline
    stages, what a layer uses again is counted as stored again: its first use may be elsewhere.
    """
    if tensor.reused and layout.pp_size > 1:
        tensor = replace(tensor, reused=False)
    if tensor.part in ("embedding", "lm_head"):
        return Shard(tensor, padded(tensor.rows, layout.tp_size) // layout.tp_size, tensor.cols, 1)
    cut_over, copies = layout.tp_size, tensor.copies
    if tensor.part == "experts":
        cut_over = expert_ranks(layout)
        copies = -(-tensor.copies // layout.ep_size)
    rows, cols = tensor.rows, tensor.cols
    if tensor.cut == "rows":
        rows = _cut(rows, tensor.units, cut_over)
    elif tensor.cut == "cols":
        cols = _cut(cols, tensor.units, cut_over)
    return Shard(tensor, rows, cols, copies)


def expert_ranks(layout: Layout) -> int:
    """Ranks that each routed expert is cut over: what expert parallelism leaves of a stage."""
    return max(layout.stage_gpus // layout.ep_size, 1)


def _cut(size: int, units: int, ranks: int) -> int:
    """Elements of `size` on the fullest of `ranks`: whole units, at least one."""
    units = units or size
    return pieces(units, ranks) * size // units


def pieces(units: int, ranks: int) -> int:
    """Whole units on the fullest of `ranks`; ranks beyond the units hold copies."""
    return -(-units // ranks)


def padded(vocab_size: int, tp_size: int) -> int:
    """Rows of the embedding after padding: the next multiple of 64 that `tp_size` divides."""
    multiple = math.lcm(VOCAB_MULTIPLE, tp_size)
    return -(-vocab_size // multiple) * multiple


def fuse(shards: Iterable[Shard]) -> tuple[Gemm, ...]:
    """Shards with one GEMM name multiplied as one matrix: rows added up."""
    by_name: dict[str, list[Shard]] = {}
    for shard in shards:
        if shard.tensor.gemm:
            by_name.setdefault(shard.tensor.gemm, []).append(shard)
    return tuple(
        Gemm(name, sum(s.rows for s in parts), parts[0].cols, tuple(parts))
        for name, parts in by_name.items()
    )
