"""The GEMMs of one rank in a step."""

from __future__ import annotations

import math

import msgspec

from shardwise.architecture.feed_forward import Moe
from shardwise.layout.shards import Gemm, LayerShard, RankShards


class StepGemm(msgspec.Struct, frozen=True):
    """`count` multiplications of (m x k) by (k x n) in one step of one rank, all stages."""

    name: str
    m: int
    n: int
    k: int
    count: int


def step_gemms(rank: RankShards, tokens: int) -> tuple[StepGemm, ...]:
    """GEMMs of a step of `tokens`, fused as engines fuse them; equal ones of several layer groups
    are counted together.

    The head is for `tokens` outputs too: right for decoding, an upper bound for prefill. Attention
    scores are not GEMMs with weights and are left out.
    """
    found: dict[tuple[str, int, int, int], int] = {}
    for layer in rank.layers:
        for gemm in layer.gemms:
            m, times = _rows(layer, gemm, tokens)
            key = (gemm.name, m, gemm.n, gemm.k)
            found[key] = found.get(key, 0) + layer.group.count * times
    head = rank.model.head
    for shard in rank.outer:
        if shard.tensor is head:  # the embedding, where tied
            found["lm_head", tokens, shard.rows, shard.cols] = 1
    return tuple(StepGemm(*key, count) for key, count in found.items())


def _rows(layer: LayerShard, gemm: Gemm, tokens: int) -> tuple[int, int]:
    """(m, how often) for one layer: tokens, or for experts those that each touched one gets.

    Routing taken as uniform: of E experts, E (1 - (1 - top_k/E)^tokens) are touched.
    """
    moe = layer.group.feed_forward
    if gemm.part != "experts" or not isinstance(moe, Moe):
        return tokens, 1
    share = moe.top_k / moe.num_experts
    touched = max(1, round(moe.num_experts * (1 - (1 - share) ** tokens)))
    each = math.ceil(tokens * moe.top_k / touched)
    on_rank = max(1, round(touched * gemm.parts[0].copies / moe.num_experts))
    return each, on_rank
