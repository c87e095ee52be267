"""LFM 2 and 3: short convolutions and a few attention layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Mixer
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    FULL,
    SLIDING,
    decoder,
    layer_types,
    num_layers,
)
from shardwise.architecture.reading.decoder import Decoder, linear, norms
from shardwise.architecture.reading.mlps import (
    W123,
    Experts,
    Router,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.reading.states import (
    short_conv,
)


def lfm2(config: Fields) -> Decoder:
    """Short convolutions and a few attention layers."""
    hidden = config.size("hidden_size")
    width = config.size(config.name_of("block_ff_dim", "intermediate_size"))
    if config.flag("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        factor = config.number("block_ffn_dim_multiplier", 1.0)
        step = config.size("block_multiple_of", default=256)
        width = step * -(-int(factor * width) // step)
    mlp = gated_mlp(hidden, width, at="feed_forward", names=W123)
    return _lfm(config, lambda _: mlp)


def lfm2_moe(config: Fields) -> Decoder:
    """LFM2 MoE: short convolutions and attention, experts after the first layers."""
    hidden = config.size("hidden_size")
    count, top_k = experts_of(config, "num_experts")
    corrected = config.flag("use_expert_bias", True)
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size("moe_intermediate_size"), W123),
        router=Router(correction="expert_bias" if corrected else ""),
        at="feed_forward",
    )
    dense = gated_mlp(hidden, config.size("intermediate_size"), at="feed_forward", names=W123)
    first = config.size("num_dense_layers", default=2, lo=0)
    return _lfm(config, lambda i: sparse if i >= first else dense)


def _lfm(config: Fields, feed_forward: Callable[[int], FeedForward]) -> Decoder:
    heads, layers = heads_of(config), num_layers(config)
    kinds = layer_types(config, layers, "conv", FULL)
    if not kinds:
        full = config.items("full_attn_idxs", int) or list(range(layers))
        kinds = [FULL if i in full else "conv" for i in range(layers)]
    attention = gqa_attention(
        heads, Projections(o="out_proj"), qk_norm=QkNorm(q="q_layernorm", k="k_layernorm")
    )
    mixing = short_conv(
        heads.hidden,
        config.size("conv_L_cache", default=3),
        bias=config.flag("conv_bias", False),
    )
    tie = config.flag(config.name_of("tie_word_embeddings", "tie_embedding"), True)
    read = decoder(
        config,
        lambda i: attention if kinds[i] == FULL else mixing,
        feed_forward,
        layer_norms=norms(heads.hidden, "operator_norm", "ffn_norm"),
        final_norm=norms(heads.hidden, "model.embedding_norm"),
    )
    return replace(read, tie_embeddings=tie)


def lfm3(config: Fields) -> Decoder:
    """LFM 3: short convolutions, attention with a gate for each head, a window in some layers."""
    heads, layers = heads_of(config), num_layers(config)
    kinds = layer_types(config, layers, "conv", FULL, SLIDING)
    if not kinds:
        raise config.bad("layer_types", f"{layers} times conv, {FULL} or {SLIDING}")
    window = config.size("sliding_window", default=256)
    gate = linear("self_attn.g_proj", heads.num, heads.hidden, "attention", "rows", "g_proj",
                  units=heads.num)  # fmt: skip
    gated = config.flag("use_attention_gate", True)
    mixing = short_conv(
        heads.hidden,
        config.size("conv_L_cache", default=7),
        bias=config.flag("conv_bias", False),
    )

    @cache
    def mixer(kind: str) -> Mixer:
        if kind == "conv":
            return mixing
        made = gqa_attention(heads, qk_norm=QkNorm(), window=window if kind == SLIDING else 0)
        return replace(made, tensors=made.tensors + gate) if gated else made

    names = ["operator_norm", "ffn_norm"]
    if config.flag("use_sandwich_norm", True):
        names += ["post_operator_norm", "post_ffn_norm"]
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), at="feed_forward", names=W123)
    return decoder(
        config,
        lambda i: mixer(kinds[i]),
        lambda _: mlp,
        layer_norms=norms(heads.hidden, *names),
        final_norm=norms(heads.hidden, "model.embedding_norm"),
        tie=True,
    )
