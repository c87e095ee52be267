"""Llama and what is built like it: Mistral, Qwen 2 and 3, Mixtral, gpt-oss."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import gqa_attention, heads_of
from shardwise.architecture.reading.common import decoder, num_layers, windows
from shardwise.architecture.reading.decoder import Decoder
from shardwise.architecture.reading.mlps import W123, MlpNames, experts_of, gated_mlp, moe


def llama(config: Fields) -> Decoder:
    heads = heads_of(config)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, bias=bias, o_bias=bias)
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    return decoder(config, lambda _: attention, lambda _: mlp)


def mistral(config: Fields) -> Decoder:
    """Mistral, Ministral, Devstral: a window in each layer where the file names one."""
    heads = heads_of(config)
    slides = windows(config, num_layers(config), lambda _: True)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp)


def qwen2(config: Fields) -> Decoder:
    mixer = _qwen_attention(config, bias=True)
    mlp = gated_mlp(config.size("hidden_size"), config.size("intermediate_size"))
    return decoder(config, mixer, lambda _: mlp)


def qwen3(config: Fields) -> Decoder:
    mixer = _qwen_attention(config, bias=config.flag("attention_bias", False), qk_norm=True)
    mlp = gated_mlp(config.size("hidden_size"), config.size("intermediate_size"))
    return decoder(config, mixer, lambda _: mlp)


def qwen2_moe(config: Fields) -> Decoder:
    mixer = _qwen_attention(config, bias=config.flag("qkv_bias", True))
    shared = config.size("shared_expert_intermediate_size", default=5632, lo=0)
    return decoder(config, mixer, qwen_moe(config, shared))


def qwen3_moe(config: Fields) -> Decoder:
    mixer = _qwen_attention(config, bias=config.flag("attention_bias", False), qk_norm=True)
    shared = config.size("shared_expert_intermediate_size", default=0, lo=0)
    return decoder(config, mixer, qwen_moe(config, shared))


def _qwen_attention(
    config: Fields, *, bias: bool, qk_norm: bool = False
) -> Callable[[int], Attention]:
    """Position -> attention. Qwen keeps a window in the file that is off unless a flag says so."""
    heads = heads_of(config, dim_default=128 if qk_norm else None)
    layers = num_layers(config)
    full = config.size("max_window_layers", default=layers, lo=0)
    used = config.flag("use_sliding_window", False)
    slides = windows(config, layers, lambda i: i >= full) if used else (0,) * layers
    o_bias = bias and qk_norm  # Qwen 2 has a bias on q, k and v only

    @cache
    def attention(window: int) -> Attention:
        kind: Literal["head", ""] = "head" if qk_norm else ""
        return gqa_attention(heads, bias=bias, o_bias=o_bias, qk_norm=kind, window=window)

    return lambda i: attention(slides[i])


def qwen_moe(config: Fields, shared_width: int) -> Callable[[int], FeedForward]:
    """Position -> feed-forward: experts in every `decoder_sparse_step`-th layer, dense elsewhere."""
    hidden = config.size("hidden_size")
    step = config.size("decoder_sparse_step", default=1)
    dense_layers = frozenset(config.items("mlp_only_layers", int))
    # transformers 5 writes it under Mixtral's name
    experts, top_k = experts_of(config, config.name_of("num_experts", "num_local_experts"))
    sparse = moe(
        hidden, experts, top_k, config.size("moe_intermediate_size"),
        shared_width=shared_width, shared_gate=True, shared_at="shared_expert",
    )  # fmt: skip

    @cache
    def dense() -> FeedForward:
        return gated_mlp(hidden, config.size("intermediate_size"))

    config.has("intermediate_size")
    return lambda i: dense() if i in dense_layers or (i + 1) % step else sparse


def mixtral(config: Fields) -> Decoder:
    heads = heads_of(config)
    slides = windows(config, num_layers(config), lambda _: True)
    attention = cache(lambda window: gqa_attention(heads, window=window))
    experts, top_k = experts_of(config, "num_local_experts")
    sparse = moe(
        heads.hidden, experts, top_k, config.size("intermediate_size"),
        at="block_sparse_moe", names=W123,
    )  # fmt: skip
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)


def gpt_oss(config: Fields) -> Decoder:
    """Sinks, biases everywhere, every other layer with a window; experts fused in the file."""
    heads = heads_of(config, dim_default=64)
    bias = config.flag("attention_bias", True)
    slides = windows(config, num_layers(config), lambda i: i % 2 == 0)
    attention = cache(
        lambda window: gqa_attention(heads, bias=bias, o_bias=bias, sinks=True, window=window)
    )
    experts, top_k = experts_of(config, "num_local_experts")
    names = MlpNames("gate_up_proj", "gate_up_proj", "down_proj")
    sparse = moe(
        heads.hidden, experts, top_k, config.size("intermediate_size"),
        router="router", router_bias=True, bias=True, names=names,
    )  # fmt: skip
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse)
