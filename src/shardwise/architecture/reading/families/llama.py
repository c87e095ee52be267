"""Llama and similar families: Mistral, Qwen 2 and 3, Mixtral, gpt-oss."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import Projections, QkNorm, gqa_attention, heads_of
from shardwise.architecture.reading.common import decoder, num_layers, windows
from shardwise.architecture.reading.decoder import Decoder
from shardwise.architecture.reading.mlps import (
    FUSED,
    W123,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)


def llama(config: Fields) -> Decoder:
    """Llama and the models that use its layers."""
    heads = heads_of(config)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return decoder(config, lambda _: attention, lambda _: mlp)


def mistral(config: Fields) -> Decoder:
    """Mistral, Ministral, Devstral: a window in each layer if the file states one."""
    heads = heads_of(config)
    slides = windows(config, num_layers(config), lambda _: True)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp)


def qwen2(config: Fields) -> Decoder:
    """Qwen2: Llama with biases on QKV."""
    mixer = _qwen_attention(config, bias=True)
    mlp = gated_mlp(config.size("hidden_size"), config.size("intermediate_size"))
    return decoder(config, mixer, lambda _: mlp)


def qwen3(config: Fields) -> Decoder:
    """Qwen3: Llama with norms of queries and keys."""
    mixer = _qwen_attention(
        config, bias=config.flag("attention_bias", False), qk_norm=True, head_dim=128
    )
    mlp = gated_mlp(config.size("hidden_size"), config.size("intermediate_size"))
    return decoder(config, mixer, lambda _: mlp)


def qwen2_moe(config: Fields) -> Decoder:
    """Qwen2-MoE: routed experts and one shared expert."""
    mixer = _qwen_attention(config, bias=config.flag("qkv_bias", True))
    shared = config.size("shared_expert_intermediate_size", default=5632, lo=0)
    return decoder(config, mixer, qwen_moe(config, shared))


def qwen3_moe(config: Fields) -> Decoder:
    """Qwen3-MoE: routed experts, with norms of queries and keys."""
    mixer = _qwen_attention(config, bias=config.flag("attention_bias", False), qk_norm=True)
    shared = config.size("shared_expert_intermediate_size", default=0, lo=0)
    return decoder(config, mixer, qwen_moe(config, shared))


def _qwen_attention(
    config: Fields, *, bias: bool, qk_norm: bool = False, head_dim: int = 0
) -> Callable[[int], Attention]:
    """Return a function from position to attention. Qwen's window applies only if a flag is set."""
    # Qwen3Config has a head size; the other classes derive it
    heads = heads_of(config, dim_default=head_dim or None)
    layers = num_layers(config)
    full = config.size("max_window_layers", default=layers, lo=0)
    used = config.flag("use_sliding_window", False)
    slides = windows(config, layers, lambda i: i >= full) if used else (0,) * layers
    o_bias = bias and qk_norm  # Qwen 2 has a bias on q, k and v only

    @cache
    def attention(window: int) -> Attention:
        return gqa_attention(
            heads,
            Projections(bias=bias, o_bias=o_bias),
            qk_norm=QkNorm() if qk_norm else None,
            window=window,
        )

    return lambda i: attention(slides[i])


def qwen_moe(
    config: Fields, shared_width: int, *, weighed: bool = True
) -> Callable[[int], FeedForward]:
    """Return a function from position to feed-forward: experts in every `decoder_sparse_step`-th
    layer.

    `weighed`: whether the shared expert has a gate.
    """
    hidden = config.size("hidden_size")
    step = config.size("decoder_sparse_step", default=1)
    dense_layers = frozenset(config.items("mlp_only_layers", int))
    # transformers 5 writes it under Mixtral's name
    experts, top_k = experts_of(config, config.name_of("num_experts", "num_local_experts"))
    sparse = moe(
        hidden,
        Experts(experts, top_k, config.size("moe_intermediate_size")),
        shared=Shared(shared_width, "shared_expert", "shared_expert_gate" if weighed else ""),
    )

    @cache
    def dense() -> FeedForward:
        return gated_mlp(hidden, config.size("intermediate_size"))

    config.has("intermediate_size")
    return lambda i: dense() if i in dense_layers or (i + 1) % step else sparse


def mixtral(config: Fields) -> Decoder:
    """Mixtral: routed experts in every layer."""
    heads = heads_of(config)
    slides = windows(config, num_layers(config), lambda _: True)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    count, top_k = experts_of(config, "num_local_experts")
    experts = Experts(count, top_k, config.size("intermediate_size"), W123)
    sparse = moe(heads.hidden, experts, at="block_sparse_moe")
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def gpt_oss(config: Fields) -> Decoder:
    """gpt-oss: sinks, biases on all projections, a window in every other layer; fused experts."""
    heads = heads_of(config, dim_default=64)
    bias = config.flag("attention_bias", True)
    slides = windows(config, num_layers(config), lambda i: i % 2 == 0)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window, sinks=True))
    count, top_k = experts_of(config, "num_local_experts")
    experts = Experts(count, top_k, config.size("intermediate_size"), FUSED, bias=True)
    sparse = moe(heads.hidden, experts, router=Router("router", bias=True))
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)
