"""DeepSeek V1 to V3.2, and what is built like them (Kimi K2)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Mixer
from shardwise.architecture.reading.attention import gqa_attention, heads_of, mla, with_indexer
from shardwise.architecture.reading.common import decoder, num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, linear, norms
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.errors import InputError


def deepseek(config: Fields) -> Decoder:
    """DeepSeek-MoE (V1): softmax attention with shared and routed experts."""
    return _deepseek(config, gqa_attention(heads_of(config)))


def deepseek_v2(config: Fields) -> Decoder:
    """DeepSeek-V2: MLA and routed experts; the smallest variants use plain attention."""
    if not config.flag("use_mla", True):
        return _deepseek(config, gqa_attention(heads_of(config)))
    return _deepseek(config, mla(config, bias=config.flag("attention_bias", False)))


def deepseek_v3(config: Fields) -> Decoder:
    """DeepSeek-V3 and R1: MLA, and experts whose router has a correction bias."""
    attention = mla(config, bias=config.flag("attention_bias", False))
    return _deepseek(config, attention, correction_bias=True)


def deepseek_v32(config: Fields) -> Decoder:
    """DeepSeek-V3.2: V3 with an indexer that selects the tokens to attend to."""
    attention = with_indexer(mla(config, bias=config.flag("attention_bias", False)), config)
    return _deepseek(config, attention, correction_bias=True)


def _deepseek(config: Fields, mixer: Mixer, *, correction_bias: bool = False) -> Decoder:
    feed_forward = deepseek_moe(config, correction_bias=correction_bias)
    read = decoder(config, lambda _: mixer, feed_forward)
    return with_mtp(config, read)


def deepseek_moe(
    config: Fields, *, correction_bias: bool, dense_layers: int = 0
) -> Callable[[int], FeedForward]:
    """Return a function from position to feed-forward: dense first layers, then routed and shared
    experts.

    `dense_layers` is the number of dense layers if the file does not state it.
    """
    hidden = config.size("hidden_size")
    count = config.name_of("n_routed_experts", "num_routed_experts", "num_experts")
    if not config.has(count):
        if config.has("moe_intermediate_size"):
            raise InputError(
                f"{config.where}: moe_intermediate_size without n_routed_experts",
                "an expert size needs an expert count",
            )
        mlp = gated_mlp(hidden, config.size("intermediate_size"))
        return lambda _: mlp
    top_k = config.name_of("num_experts_per_tok", "num_experts_per_token")
    experts, chosen = experts_of(config, count, top_k)
    width = config.size("moe_intermediate_size")
    shared = config.size(
        config.name_of("n_shared_experts", "num_shared_experts"), default=0, lo=0, hi=MAX_EXPERTS
    )
    sparse = moe(
        hidden,
        Experts(experts, chosen, width),
        router=CORRECTED if correction_bias else Router(),
        shared=Shared(shared * width),
    )
    routed = sparse_layers(config, num_layers(config), dense_layers)
    if all(routed):
        config.has("intermediate_size")
        return lambda _: sparse
    dense = gated_mlp(hidden, config.size("intermediate_size"))
    return lambda i: sparse if i >= len(routed) or routed[i] else dense


def sparse_layers(config: Fields, layers: int, dense: int) -> list[bool]:
    """Return which layers have experts, from mlp_layer_types, from a list of flags, or all except
    the first layers."""
    kinds = config.items("mlp_layer_types", str)
    if kinds:
        if len(kinds) < layers or not set(kinds) <= {"dense", "sparse"}:
            raise config.bad("mlp_layer_types", f"{layers} times dense or sparse")
        config.has("first_k_dense_replace")
        return [kind == "sparse" for kind in kinds[:layers]]
    if isinstance(config.get("moe_layer_freq"), list):
        config.has("first_k_dense_replace")
        return [bool(n) for n in config.per_layer("moe_layer_freq", layers)]
    first = config.size("first_k_dense_replace", default=dense, lo=0)
    step = config.size("moe_layer_freq", default=1)
    return [i >= first and i % step == 0 for i in range(layers)]


def with_mtp(config: Fields, read: Decoder) -> Decoder:
    """Return `read` with its multi-token prediction heads: each is a layer with a projection.

    Drafts share the embedding and the output head of the model.
    """
    count = config.size("num_nextn_predict_layers", default=0, lo=0, hi=64)
    if not count:
        return read
    hidden, last = read.hidden_size, read.layers[-1]
    beside = (
        *last.norms,
        *norms(hidden, "enorm", "hnorm", "shared_head.norm"),
        *linear("eh_proj", hidden, 2 * hidden, "mlp", "replicated", "eh_proj"),
    )
    return replace(read, drafts=(Layer(last.mixer, last.feed_forward, beside),) * count)
