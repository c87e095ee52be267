"""Attention time of a step on one rank, by mixer: decode over a cache, and prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise import kernels
from shardwise.architecture.mixers import Attention, Indexer, LinearAttention, Mamba2, Mixer, Mla
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.attention import BYTES
from shardwise.kernels.mla import LATENT, ROTARY
from shardwise.kernels.provenance import Provenance, Times
from shardwise.kernels.roofline import ASSUMED_EFFICIENCY, ASSUMED_LAUNCH_S
from shardwise.layout.shards import RankShards, pieces
from shardwise.perfmodel.best_tables import fastest
from shardwise.perfmodel.context_parallel import earlier_seconds
from shardwise.perfmodel.grids import CONTEXTS, SEQUENCES, TOKENS
from shardwise.perfmodel.timed_alone import (
    ATTENTION_LAUNCH_S,
    attention_launch_s,
    from_memory,
    without_launch,
)

Array = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]
NoteError = Callable[[int, float, float], None]
#: Typical batch and context at which the error of decode attention is evaluated.
_AT: Final = (
    int(np.argmin(np.abs(SEQUENCES - 32.0))),
    int(np.argmin(np.abs(CONTEXTS - 2048.0))),
)
#: Engines whose decode attention over a 16-bit cache is FlashAttention 3 on Hopper. vLLM's tables
#: are a fifth slower than SGLang's at some sizes, which steps of vLLM on an H100 do not show
#: (docs/decisions/measured-kernels.md).
_FLASH_ATTENTION_3: Final = ("vllm", "sglang")
_INDEX_BYTES: Final = 1.03125  #: bytes per element of the indexer's cache: fp8 with scales


def decode_seconds(
    ranks: Sequence[RankShards],
    gpu: Gpu,
    engine: str,
    kv_dtype: str,
    note: NoteError,
    query_tokens: int = 1,
) -> Array:
    """Return the seconds of a decode step's attention over all layers: (ranks, SEQUENCES,
    CONTEXTS).

    Each sequence has `query_tokens` tokens in the step, more than one if drafts are verified.
    """
    where = (gpu, engine, "fp8" if kv_dtype == "fp8" else "bf16")
    out = np.zeros((len(ranks), len(SEQUENCES), len(CONTEXTS)))
    times = _by_mixer(ranks, lambda mixer, cut: _decode(mixer, cut, where, query_tokens))
    for place, rank in enumerate(ranks):
        for group, layer in enumerate(rank.layers):
            found = times[group, _cut(rank)]
            if found is None:
                continue
            seconds = layer.group.count * np.broadcast_to(found.seconds, out.shape[1:])
            out[place] += seconds
            code = int(np.broadcast_to(found.provenance, out.shape[1:])[_AT])
            note(place, float(seconds[_AT]), _error(layer.group.mixer, Provenance(code)))
    return out


def decode_provenance(
    rank: RankShards, gpu: Gpu, engine: str, kv_dtype: str, sequences: float, context: float
) -> dict[str, Provenance]:
    """Return the provenance of decode attention by kind of mixer, at the grid node nearest to
    `sequences` and `context` tokens; for several kinds of layer, the farthest from a
    measurement."""
    where = (gpu, engine, "fp8" if kv_dtype == "fp8" else "bf16")
    at = (
        int(np.argmin(np.abs(np.log2(SEQUENCES / max(sequences, 1.0))))),
        int(np.argmin(np.abs(np.log2(CONTEXTS / max(context, 1.0))))),
    )
    found: dict[str, Provenance] = {}
    for layer in rank.layers:
        times = _decode(layer.group.mixer, _cut(rank), where, 1)
        if times is None:
            continue
        codes = np.broadcast_to(times.provenance, (len(SEQUENCES), len(CONTEXTS)))
        name = type(layer.group.mixer).__name__
        found[name] = max(found.get(name, Provenance.MEASURED), Provenance(int(codes[at])))
    return found


#: How attention is cut: ranks of TP, and how many of them share a cache's tokens.
Cut = tuple[int, int]


def _cut(rank: RankShards) -> Cut:
    return rank.layout.tp_size, rank.layout.dcp_size


def _by_mixer(
    ranks: Sequence[RankShards], kernel: Callable[[Mixer, Cut], Times | None]
) -> dict[tuple[int, Cut], Times | None]:
    """Return the times of each group of layers for each way of sharding; PP and EP do not change
    attention."""
    cuts = sorted({_cut(rank) for rank in ranks})
    known: dict[tuple[Mixer, Cut], Times | None] = {}
    found: dict[tuple[int, Cut], Times | None] = {}
    for group, layer in enumerate(ranks[0].layers):
        shape = replace(layer.group.mixer, tensors=(), caches=())  # formats do not change it
        for cut in cuts:
            if (shape, cut) not in known:
                known[shape, cut] = kernel(shape, cut)
            found[group, cut] = known[shape, cut]
    return found


def _error(mixer: Mixer, provenance: Provenance) -> float:
    name = {Attention: "attention_decode", Mla: "mla_decode"}.get(type(mixer), "linear_scan_decode")
    return kernels.typical_error(name, provenance)


Where = tuple[Gpu, str, str]


def _decode(mixer: Mixer, cut: Cut, where: Where, query_tokens: int) -> Times | None:
    """Ranks that share a cache each read their share of it, for the query heads of all of them."""
    gpu, engine, kv = where
    tp_size, sharers = cut
    batch, context = SEQUENCES[:, None], CONTEXTS[None, :] / sharers
    queries, pairs = float(query_tokens), batch * context
    if isinstance(mixer, Attention):
        heads, kv_heads = pieces(mixer.num_heads, tp_size), pieces(mixer.num_kv_heads, tp_size)
        window = float(mixer.window or mixer.chunk)
        seen = _picked(mixer.indexer, context)
        read = np.minimum(seen, window) if window else seen
        elements = batch * read * 2.0 * kv_heads * mixer.head_dim

        def kernel(name: str) -> Times:
            times = kernels.attention_decode(
                gpu, name, batch, seen, heads * sharers, kv_heads,
                mixer.head_dim, window, "bf16", kv, queries,
            )  # fmt: skip
            return _in_step(times, gpu, elements, kv)

        times = fastest(kernel, engine, _same_kernel(gpu, engine, kv))
        return _with_indexer(times, mixer.indexer, gpu, queries * pairs, pairs)
    if isinstance(mixer, Mla):
        heads = pieces(mixer.num_heads, tp_size)
        seen = _picked(mixer.indexer, context)
        seen = np.minimum(seen, float(mixer.window)) if mixer.window else seen
        times = kernels.mla_decode(gpu, engine, batch, seen, heads * sharers, "bf16", kv, queries)
        times = _in_step(times, gpu, batch * seen * (LATENT + ROTARY), kv)
        return _with_indexer(times, mixer.indexer, gpu, queries * pairs, pairs)
    if isinstance(mixer, LinearAttention | Mamba2):
        times = kernels.linear_decode(gpu, engine, batch, *_states(mixer, tp_size))
        return replace(times, seconds=times.seconds * _state_passes(query_tokens))
    return None


def _same_kernel(gpu: Gpu, engine: str, kv_dtype: str) -> Sequence[str]:
    """Return the engines that run the same decode attention as `engine`."""
    hopper = gpu.generation == "hopper" and kv_dtype == "bf16"
    return _FLASH_ATTENTION_3 if hopper and engine in _FLASH_ATTENTION_3 else (engine,)


def _in_step(times: Times, gpu: Gpu, elements: Array, kv_dtype: str) -> Times:
    """Return times within a step of calls that read so many elements of the cache."""
    read = elements * BYTES[kv_dtype]
    return without_launch(from_memory(times, gpu, read), attention_launch_s(times))


def _state_passes(query_tokens: int) -> float:
    """Return a state's reads and writes relative to one token. It is read once and saved after
    each token, so that rejected tokens can be undone (vLLM, fused_recurrent_gated_delta_rule)."""
    return (1.0 + query_tokens) / 2.0


def _states(mixer: LinearAttention | Mamba2, tp_size: int) -> tuple[int, int, int, int, str]:
    """Return the heads of keys and values, their widths, and the kernels' name of the kind."""
    if isinstance(mixer, Mamba2):
        groups, heads = pieces(mixer.num_groups, tp_size), pieces(mixer.num_heads, tp_size)
        return groups, heads, mixer.state_size, mixer.head_dim, "mamba2"
    kind = mixer.kind if mixer.kind in ("gdn", "kda") else "gdn"
    return (
        pieces(mixer.num_k_heads, tp_size),
        pieces(mixer.num_v_heads, tp_size),
        mixer.head_k_dim,
        mixer.head_v_dim,
        kind,
    )


def _picked(indexer: Indexer | None, context: AnyFloats) -> AnyFloats:
    """Return the tokens that attention reads: those that the indexer selects."""
    return context if indexer is None else np.minimum(context, float(indexer.top_k))


def _with_indexer(
    times: Times, indexer: Indexer | None, gpu: Gpu, pairs: Array, read: Array
) -> Times:
    """Return attention plus the indexer's scoring of `pairs` of tokens, with `read` keys from
    memory."""
    if indexer is None:
        return times
    flops = 2.0 * indexer.num_heads * indexer.head_dim * pairs / gpu.matrix_rate("fp8")
    moved = read * indexer.head_dim * _INDEX_BYTES / gpu.memory_bandwidth
    scoring = ASSUMED_LAUNCH_S + np.maximum(flops, moved) / ASSUMED_EFFICIENCY
    return Times(times.seconds + scoring, times.provenance, times.distance, times.source)


def prefill_seconds(
    ranks: Sequence[RankShards], gpu: Gpu, engine: str, kv_dtype: str
) -> tuple[Array, Array]:
    """Return the seconds of prefill attention over all layers, by new tokens and mean earlier
    tokens of each: (ranks, TOKENS, CONTEXTS).

    Also return those of the smallest calls over all layers with a cache of keys and values:
    (ranks,). A prompt does not need them in a call that serves decodes too.
    """
    where = (gpu, engine, "fp8" if kv_dtype == "fp8" else "bf16")
    out = np.zeros((len(ranks), len(TOKENS), len(CONTEXTS)))
    least = np.zeros(len(ranks))
    times = _by_mixer(ranks, lambda mixer, cut: _prefill(mixer, cut, where))
    for place, rank in enumerate(ranks):
        for group, layer in enumerate(rank.layers):
            found = times[group, _cut(rank)]
            if found is None:
                continue
            out[place] += layer.group.count * np.broadcast_to(found.seconds, out.shape[1:])
            if isinstance(layer.group.mixer, Attention):
                least[place] += layer.group.count * float(found.seconds[0, 0])
    # a longer context is never cheaper, for any number of prompts
    return np.maximum.accumulate(out, axis=2), least


def _prefill(mixer: Mixer, cut: Cut, where: Where) -> Times | None:
    """Return the time of prompts of twice the mean context; fewer tokens are a chunk of one such
    prompt with earlier tokens in the cache."""
    gpu, engine, kv = where
    tp_size = cut[0]
    tokens, seen = TOKENS[:, None], CONTEXTS[None, :]
    prompts = np.maximum(tokens / (2.0 * seen), 1.0)
    new = tokens / prompts
    cached = np.maximum(seen - new / 2.0, 0.0)
    if isinstance(mixer, LinearAttention | Mamba2):
        return kernels.linear_prefill(gpu, engine, prompts, new, *_states(mixer, tp_size))
    if isinstance(mixer, Attention):
        heads, kv_heads = pieces(mixer.num_heads, tp_size), pieces(mixer.num_kv_heads, tp_size)
        window = float(mixer.window or mixer.chunk)
        kept = _kept(mixer.indexer, cached, new)
        times = kernels.attention_prefill(
            gpu, engine, prompts, new, heads, kv_heads, mixer.head_dim, kept, window, "bf16", kv
        )
        times = without_launch(times, ATTENTION_LAUNCH_S)
        times = _with_earlier(times, mixer, cut, gpu, tokens, prompts * cached)
        return _with_indexer(times, mixer.indexer, gpu, tokens * seen, prompts * (new + cached))
    if isinstance(mixer, Mla):
        heads = pieces(mixer.num_heads, tp_size)
        kept = _kept(mixer.indexer, cached, new)
        kept = np.minimum(kept, float(mixer.window)) if mixer.window else kept
        times = kernels.mla_prefill(gpu, engine, prompts, new, heads, kept, "bf16", kv)
        times = without_launch(times, ATTENTION_LAUNCH_S)
        times = _with_earlier(times, mixer, cut, gpu, tokens, prompts * cached)
        return _with_indexer(times, mixer.indexer, gpu, tokens * seen, prompts * (new + cached))
    return None


def _with_earlier(
    times: Times, mixer: Attention | Mla, cut: Cut, gpu: Gpu, tokens: Array, cached: Array
) -> Times:
    """Prompts' attention with what it takes to see the shares of a cache that others keep."""
    tp_size, sharers = cut
    if sharers == 1:
        return times
    heads = pieces(mixer.num_heads, tp_size) * sharers
    more = earlier_seconds(mixer, heads, sharers, gpu, tokens, cached)
    return Times(times.seconds + more, times.provenance, times.distance, times.source)


def _kept(indexer: Indexer | None, cached: Array, new: Array) -> Array:
    """Return the cached tokens that attention sees, limited to those that the indexer selects."""
    if indexer is None:
        return cached
    return np.minimum(cached, np.maximum(indexer.top_k - new / 2.0, 0.0))
