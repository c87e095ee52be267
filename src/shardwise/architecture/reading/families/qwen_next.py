"""Qwen3-Next, Qwen3.5 and later: three layers of linear attention, then one of gated attention."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import FULL, LINEAR, decoder, layer_types, num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.llama import qwen_moe
from shardwise.architecture.reading.mlps import gated_mlp
from shardwise.architecture.reading.states import gated_delta_net


def qwen3_next(config: Fields) -> Decoder:
    """Qwen3-Next: gated delta nets, attention at an interval, experts everywhere."""
    # the file does not state its draft layer; vLLM builds one
    return _hybrid(config, _experts(config), split=False, drafts=1)


def qwen3_5(config: Fields) -> Decoder:
    """Qwen3.5 dense: gated delta nets and attention at an interval."""
    mlp = gated_mlp(config.size("hidden_size"), config.size("intermediate_size", default=12288))
    return _hybrid(config, lambda _: mlp, split=True, drafts=0)


def qwen3_5_moe(config: Fields) -> Decoder:
    """Qwen3.5 with experts in every layer."""
    return _hybrid(config, _experts(config), split=True, drafts=0)


def intern_s2_mobius(config: Fields) -> Decoder:
    """Intern-S2-Mobius: Qwen3.5 whose layers share `num_blocks` banks of routed experts in turn.

    Source: sglang/srt/models/interns2_mobius.py.
    """
    banks = config.size("num_blocks", default=4, hi=MAX_LAYERS)
    own = _experts(config)(0)
    again = tuple(replace(t, reused=t.part == "experts" or t.gemm == "router") for t in own.tensors)
    later = replace(own, tensors=again)
    return _hybrid(config, lambda i: own if i < banks else later, split=True, drafts=0)


def _experts(config: Fields) -> Callable[[int], FeedForward]:
    shared = config.size("shared_expert_intermediate_size", default=512, lo=0)
    return qwen_moe(config, shared)


def _hybrid(
    config: Fields, feed_forward: Callable[[int], FeedForward], *, split: bool, drafts: int
) -> Decoder:
    layers = num_layers(config)
    interval = config.size("full_attention_interval", default=4)
    kinds = layer_types(config, layers, LINEAR, FULL) or [
        LINEAR if (i + 1) % interval else FULL for i in range(layers)
    ]
    attention = _gated_attention(config)
    delta = gated_delta_net(config, split=split)
    read = decoder(config, lambda i: delta if kinds[i] == LINEAR else attention, feed_forward)
    return _with_mtp(config, read, attention, feed_forward(layers - 1), drafts)


def _gated_attention(config: Fields) -> Attention:
    heads = heads_of(config, dim_default=256, kv_default=2)
    bias = config.flag("attention_bias", False)
    gated = config.flag("attn_output_gate", True)
    projections = Projections(bias=bias, o_bias=bias, gated=gated)
    return gqa_attention(heads, projections, qk_norm=QkNorm())


def _with_mtp(
    config: Fields, read: Decoder, attention: Attention, feed_forward: FeedForward, default: int
) -> Decoder:
    """A draft is one attention layer under "mtp.layers", with its own projection."""
    count = config.size(
        config.name_of("mtp_num_hidden_layers", "num_nextn_predict_layers"),
        default=default, lo=0, hi=64,
    )  # fmt: skip
    if not count:
        return read
    hidden = read.hidden_size
    beside = (
        *read.layers[-1].norms,
        *norms(hidden, "pre_fc_norm_hidden", "pre_fc_norm_embedding", "norm"),
        *linear("fc", hidden, 2 * hidden, "mlp", "replicated", "eh_proj"),
    )
    return replace(
        read, drafts=(Layer(attention, feed_forward, beside),) * count, draft_prefix="mtp.layers"
    )
