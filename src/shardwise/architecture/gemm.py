"""The matrix multiplications one rank makes in a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shardwise.architecture.model import Architecture, Moe
from shardwise.architecture.rank import padded_vocab


@dataclass(frozen=True)
class Gemm:
    """`count` multiplications of (m x k) by (k x n) in one step of one rank."""

    name: str
    m: int
    n: int
    k: int
    count: int


def gemm_shapes(arch: Architecture, tp_size: int, tokens: int) -> tuple[Gemm, ...]:
    """GEMMs of one rank for a step of `tokens`, q k v and gate/up fused as engines do.

    lm_head is for `tokens` outputs too: right for decode, an upper bound for prefill. Attention
    scores are not GEMMs with weights and are left out.
    """
    gemms = [*_attention(arch, tp_size, tokens)]
    if arch.num_dense_layers:
        width = arch.intermediate_size // tp_size
        gemms += _mlp("mlp", arch.hidden_size, width, tokens, arch.num_dense_layers)
    if arch.moe:
        gemms += _experts(arch.hidden_size, arch.moe, tp_size, tokens)
    vocab = int(padded_vocab(arch, tp_size)) // tp_size
    return (*gemms, Gemm("lm_head", tokens, vocab, arch.hidden_size, 1))


def _attention(arch: Architecture, tp: int, tokens: int) -> list[Gemm]:
    h, heads, layers = arch.hidden_size, arch.num_heads // tp, arch.num_layers
    if arch.mla is None:
        kv_heads = max(arch.num_kv_heads // tp, 1)
        qkv = (heads + 2 * kv_heads) * arch.head_dim
        return [
            Gemm("qkv_proj", tokens, qkv, h, layers),
            Gemm("o_proj", tokens, h, heads * arch.head_dim, layers),
        ]
    m = arch.mla
    query = heads * (m.qk_nope_head_dim + m.qk_rope_head_dim)
    down = m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim
    expand = heads * (m.qk_nope_head_dim + m.v_head_dim)
    return [
        Gemm("qkv_a_proj", tokens, down, h, layers),
        Gemm("q_b_proj", tokens, query, m.q_lora_rank or h, layers),
        Gemm("kv_b_proj", tokens, expand, m.kv_lora_rank, layers),
        Gemm("o_proj", tokens, h, heads * m.v_head_dim, layers),
    ]


def _mlp(name: str, hidden: int, width: int, tokens: int, count: int) -> list[Gemm]:
    return [
        Gemm(f"{name}.gate_up_proj", tokens, 2 * width, hidden, count),
        Gemm(f"{name}.down_proj", tokens, hidden, width, count),
    ]


def _experts(hidden: int, moe: Moe, tp: int, tokens: int) -> list[Gemm]:
    """Routing taken as uniform: of E experts, E (1 - (1 - top_k/E)^tokens) are hit."""
    share = moe.top_k / moe.num_experts
    hit = max(1, round(moe.num_experts * (1 - (1 - share) ** tokens)))
    each = math.ceil(tokens * moe.top_k / hit)
    layers = moe.num_moe_layers
    gemms = [Gemm("router", tokens, moe.num_experts, hidden, layers)]
    width = moe.expert_intermediate_size // tp
    gemms += _mlp("experts", hidden, width, each, hit * layers)
    if moe.shared_intermediate_size:
        shared = moe.shared_intermediate_size // tp
        gemms += _mlp("shared_experts", hidden, shared, tokens, layers)
    return gemms
