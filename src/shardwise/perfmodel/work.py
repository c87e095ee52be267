"""The work one rank does: bytes it streams and FLOPs it executes, before any efficiency.

Everything is an array over tp_size (or a scalar where TP does not matter), so that a sweep over
thousands of deployments is one NumPy expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import count, part_bytes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """Per-rank work of a whole model. Arrays have the shape of the tp_size given."""

    weight_bytes: Array  #: dense matrices of all layers, streamed once a step
    weight_flops_per_token: Array  #: 2 x their parameters
    expert_bytes: Array  #: all routed experts of all layers
    expert_flops_per_token: Array  #: 2 x the parameters a token touches
    head_bytes: Array  #: lm_head, 16 bits or the checkpoint's 32
    head_flops_per_token: Array
    attention_flops_per_token_pair: Array  #: prefill: per (query, key) token pair, all layers
    kv_bytes_per_token: Array  #: read per cached token and step, full-attention layers
    kv_window_bytes_per_token: Array  #: the same for the sliding-window layers
    elementwise_bytes_per_token: Array  #: one pass over what norms and activations touch
    message_bytes_per_token: float  #: of one all-reduce


def kv_replication(arch: Architecture, tp_size: Array) -> Array:
    """Copies of each KV head across the ranks: above 1 where TP exceeds the KV heads."""
    return np.maximum(1.0, tp_size / arch.num_kv_heads)


def rank_work(
    arch: Architecture, tp_size: Array, weight_dtype: str, kv_element_bytes: float
) -> Work:
    """The work of one rank of `arch` at each `tp_size` (float array), for weights of a dtype."""
    p, tp = count(arch), np.asarray(tp_size, dtype=np.float64)
    dense = {"attention": p.attention, "mlp": p.mlp, "shared_experts": p.shared_experts}
    dense["router"] = p.router
    head_params = arch.vocab_size * arch.hidden_size
    full_layers = arch.num_layers - arch.num_sliding_layers
    if arch.mla:
        # the latent vector is not sharded: every rank caches and reads all of it
        kv_token = (arch.mla.kv_lora_rank + arch.mla.qk_rope_head_dim) * kv_element_bytes
        kv_share = np.ones_like(tp)
        pair_width = arch.mla.qk_nope_head_dim + arch.mla.qk_rope_head_dim + arch.mla.v_head_dim
    else:
        kv_token = 2 * arch.num_kv_heads * arch.head_dim * kv_element_bytes
        kv_share = kv_replication(arch, tp) / tp
        pair_width = 2 * arch.head_dim
    moe = arch.moe
    active_width = moe.top_k * moe.expert_intermediate_size if moe else arch.intermediate_size
    # every rank writes each chosen expert's whole output before they are added up
    copies = 1.0 + (moe.top_k if moe else 0)
    return Work(
        weight_bytes=sum(n * part_bytes(weight_dtype, part) for part, n in dense.items()) / tp,
        weight_flops_per_token=2.0 * sum(dense.values()) / tp,
        expert_bytes=p.experts * part_bytes(weight_dtype, "experts") / tp,
        expert_flops_per_token=2.0 * p.active_experts / tp,
        head_bytes=head_params * part_bytes(weight_dtype, "lm_head") / tp,
        head_flops_per_token=2.0 * head_params / tp,
        attention_flops_per_token_pair=2.0 * arch.num_heads * pair_width * arch.num_layers / tp,
        kv_bytes_per_token=kv_token * full_layers * kv_share,
        kv_window_bytes_per_token=kv_token * arch.num_sliding_layers * kv_share,
        elementwise_bytes_per_token=2.0
        * arch.num_layers
        * (copies * arch.hidden_size + (active_width + arch.num_heads * arch.head_dim) / tp),
        message_bytes_per_token=(4.0 if weight_dtype == "fp32" else 2.0) * arch.hidden_size,
    )
