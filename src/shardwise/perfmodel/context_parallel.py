"""Decode context parallelism: what ranks that share a cache pass to each other.

Each rank attends to its share of every sequence's cache with the query heads of all of them, so
queries are gathered before, and partial outputs are weighed by their log-sum-exp (LSE) and added up
after: an all-gather, a small one, and a reduce-scatter in each layer (vLLM's default "ag_rs",
v1/attention/ops/dcp.py: cp_lse_ag_out_rs). A prompt's earlier tokens are gathered instead where the
cache is a latent one; with KV heads, prompts go the way of decoding.

Nothing of it was calibrated: the times are NCCL's, and attention's those of its shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise import kernels
from shardwise.architecture.mixers import Attention, Mla
from shardwise.hardware.gpu import Gpu
from shardwise.layout.shards import RankShards, pieces
from shardwise.perfmodel.grids import SEQUENCES

Array = NDArray[np.float64]
#: Collectives of a layer whose cache is shared.
MESSAGES: Final = 3
_BYTES: Final = 2.0  #: of an element of queries and outputs
_LSE_BYTES: Final = 4.0


def merge_seconds(ranks: Sequence[RankShards], gpu: Gpu) -> Array:
    """Seconds that decoding tokens' queries and partial outputs take between the ranks that share
    a cache, all layers: (ranks, SEQUENCES tokens)."""
    out = np.zeros((len(ranks), len(SEQUENCES)))
    known: dict[tuple[int, int, tuple[float, float]], Array] = {}
    for place, rank in enumerate(ranks):
        sharers = rank.layout.dcp_size
        for layer in rank.layers if sharers > 1 else ():
            mixer = layer.group.mixer
            if not isinstance(mixer, Attention | Mla):
                continue
            heads = pieces(mixer.num_heads, rank.layout.tp_size) * sharers
            key = (heads, sharers, _widths(mixer))
            if key not in known:
                known[key] = merged(mixer, heads, sharers, gpu, SEQUENCES)
            out[place] += layer.group.count * known[key]
    return out


def merged(mixer: Attention | Mla, heads: int, sharers: int, gpu: Gpu, tokens: Array) -> Array:
    """Seconds to gather the queries of `tokens` in one layer, and to merge their outputs: `heads`
    of all `sharers` together."""
    query, output = _widths(mixer)
    gathered = kernels.all_gather(gpu, sharers, tokens * heads * query * _BYTES)
    weights = kernels.all_gather(gpu, sharers, tokens * heads * sharers * _LSE_BYTES)
    added = kernels.reduce_scatter(gpu, sharers, tokens * heads * output * _BYTES)
    return np.asarray(gathered.seconds + weights.seconds + added.seconds)


def _widths(mixer: Attention | Mla) -> tuple[float, float]:
    """Elements of a head's query and output where attention runs; latent attention's are those
    that the key and value projections were absorbed into."""
    if isinstance(mixer, Mla):
        return mixer.kv_lora_rank + mixer.qk_rope_head_dim, mixer.kv_lora_rank
    return mixer.head_dim, mixer.value_dim


def earlier_seconds(
    mixer: Attention | Mla, heads: int, sharers: int, gpu: Gpu, tokens: Array, cached: Array
) -> Array:
    """Seconds of one layer that prompts' chunks of `tokens` in all, with `cached` earlier tokens of
    all their prompts, spend on what the other ranks keep. Broadcasts."""
    if isinstance(mixer, Mla):
        width = mixer.kv_lora_rank + mixer.qk_rope_head_dim
        size = np.maximum(cached, 1.0) * width * _BYTES
        seconds = kernels.all_gather(gpu, sharers, size).seconds
    else:
        seconds = merged(mixer, heads, sharers, gpu, tokens)
    return np.asarray(np.where(cached > 0, seconds, 0.0))
