"""Families of 2026 that combine the parts of others: Mistral 4, Hunyuan 4, OLMo Hybrid."""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention, LinearAttention, Mla
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
    mla,
    with_indexer,
)
from shardwise.architecture.reading.common import (
    FULL,
    LINEAR,
    decoder,
    layer_types,
    num_layers,
    uniform,
    windows,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, linear, norm, norms
from shardwise.architecture.reading.families.deepseek import deepseek_moe, sparse_layers
from shardwise.architecture.reading.families.glm import choosing_layers
from shardwise.architecture.reading.families.llama import llama, qwen2, qwen3
from shardwise.architecture.reading.mlps import (
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
    plain_mlp,
)
from shardwise.architecture.reading.states import states, vectors
from shardwise.architecture.tensor import Tensor


def mistral4(config: Fields) -> Decoder:
    """MLA with routed and shared experts, chosen by softmax."""
    attention = mla(config, bias=config.flag("attention_bias", False))
    return decoder(config, lambda _: attention, deepseek_moe(config, correction_bias=False))


def ernie4_5_vl_moe(config: Fields) -> Decoder:
    """Experts for text and for images; those for text come first in lists of sizes."""
    heads, layers = heads_of(config), num_layers(config)
    bias = config.flag("use_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    text, vision = _pair(config, "moe_num_experts"), _pair(config, "moe_intermediate_size")
    top_k = config.size("moe_k", hi=MAX_EXPERTS)
    shared = config.size("moe_num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    made = moe(
        heads.hidden,
        Experts(text[0], top_k, vision[0], at="text_moe.experts"),
        router=Router("text_moe.gate", correction="text_moe.gate.moe_statics"),
        shared=Shared(shared * vision[0]),
    )
    # experts for images are also loaded, but idle while text is generated
    images = moe(
        heads.hidden,
        Experts(text[1], top_k, vision[1], at="vision_moe.experts"),
        router=Router("vision_moe.gate", correction="vision_moe.gate.moe_statics"),
    )
    sparse = replace(made, tensors=made.tensors + images.tensors)
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"), bias=bias)
    if config.has("mlp_layer_types"):
        routed = sparse_layers(config, layers, 1)
    else:
        first = _pair(config, "moe_layer_start_index", 1)[0]
        routed = [i >= first for i in range(layers)]
    config.read.update(("moe_layer_end_index", "moe_layer_interval"))
    return decoder(config, lambda _: attention, lambda i: sparse if routed[i] else dense, tie=True)


def _pair(config: Fields, name: str, default: int | None = None) -> tuple[int, int]:
    """Return a size for text and one for images; a single number applies to both."""
    if isinstance(config.get(name), list):
        first, second = config.per_layer(name, 2)
        return first, second
    size = config.size(name, default)
    return size, size


def aria(config: Fields) -> Decoder:
    """Text model of Aria: experts with a shared MLP, grouped in one tensor."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    count, top_k = experts_of(config, "moe_num_experts", "moe_topk")
    width = config.size("intermediate_size")
    shared = config.size("moe_num_shared_experts", default=2, lo=0, hi=MAX_EXPERTS)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, width),
        router=Router("router"),
        shared=Shared(shared * width),
    )
    return uniform(config, attention, sparse)


def hy_v4(config: Fields) -> Decoder:
    """Hunyuan 4: gated MLA with sinks and an indexer that layers share, several streams."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    plain = _gated_mla(config, mla(config, bias=config.flag("attention_bias", False)))
    full = with_indexer(plain, config)
    shared = replace(plain, indexer=full.indexer)
    choosing = [i == 0 or (i - 1) % 4 == 0 for i in range(layers)]
    if config.has("indexer_types"):
        choosing = choosing_layers(config, layers)
    beside = norms(hidden, *PRE_NORMS) + _streams(config, "attn_hc") + _streams(config, "ffn_hc")
    return decoder(
        config,
        lambda i: full if choosing[i] else shared,
        deepseek_moe(config, correction_bias=True, dense_layers=1),
        layer_norms=beside,
    )


def _gated_mla(config: Fields, made: Mla) -> Mla:
    heads = made.num_heads
    extra = (
        *linear("self_attn.gate_proj", heads * made.v_head_dim, config.size("hidden_size"),
                "attention", "rows", "g_proj", units=heads),
        Tensor("self_attn.sinks", heads, 1, "attention", "rows", heads),
    )  # fmt: skip
    return replace(made, tensors=made.tensors + extra)


def _streams(config: Fields, name: str) -> tuple[Tensor, ...]:
    """Weights before and after each part for `hc_mult` residual streams."""
    n, hidden = config.size("hc_mult", default=4), config.size("hidden_size")
    return (
        *linear(f"{name}.fn", 2 * n, n * hidden, "norm", "replicated", "hyper_connection"),
        Tensor(f"{name}.base", 2 * n, 1, "norm"),
        Tensor(f"{name}.scale", 2, 1, "norm"),
    )


def olmo_hybrid(config: Fields) -> Decoder:
    """Three layers of a gated delta net, then one of OLMo 3's attention."""
    heads, layers = heads_of(config), num_layers(config)
    kinds = layer_types(config, layers, LINEAR, FULL)
    kinds = kinds or [LINEAR if (i + 1) % 4 else FULL for i in range(layers)]
    attention = gqa_attention(heads, qk_norm=QkNorm(over_all=True))
    delta = _olmo_delta(config)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    own = norms(heads.hidden, *PRE_NORMS)
    after = norms(heads.hidden, "post_attention_layernorm", "post_feedforward_layernorm")
    return decoder(
        config,
        lambda i: delta if kinds[i] == LINEAR else attention,
        lambda _: mlp,
        layer_norms=lambda i: own if kinds[i] == LINEAR else after,
    )


def _olmo_delta(config: Fields) -> LinearAttention:
    hidden, at = config.size("hidden_size"), "linear_attn"
    nk = config.size("linear_num_key_heads", default=config.size("num_attention_heads"))
    nv = config.size("linear_num_value_heads", default=config.size("num_attention_heads"))
    dk = config.size("linear_key_head_dim", default=96)
    dv = config.size("linear_value_head_dim", default=192)
    kernel = config.size("linear_conv_kernel_dim", default=4)
    keys, values = nk * dk, nv * dv
    rows = (("q_proj", keys), ("k_proj", keys), ("v_proj", values), ("g_proj", values),
            ("a_proj", nv), ("b_proj", nv))  # fmt: skip
    gemms = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
    tensors = (
        *(t for name, size in rows
          for t in linear(f"{at}.{name}", size, hidden, "attention", "rows",
                          gemms.get(name, name), units=nk)),
        Tensor(f"{at}.conv1d", 2 * keys + values, kernel, "attention", "rows", nk),
        *vectors(at, ("A_log", "dt_bias"), nv, nk),
        *norm(f"{at}.o_norm", dv),
        *linear(f"{at}.o_proj", hidden, values, "attention", "cols", "o_proj", units=nk),
    )  # fmt: skip
    caches = states(2 * keys + values, kernel, nv * dv * dk, (nk, nk), "")
    return LinearAttention("gdn", nk, nv, dk, dv, kernel, tensors, caches)


def kolibri1(config: Fields) -> Decoder:
    """Kolibri 1: four layers of five have a sliding window."""
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 5 != 0)

    @cache
    def attention(window: int) -> Attention:
        return gqa_attention(heads, qk_norm=QkNorm(), window=window)

    count, top_k = experts_of(config, config.name_of("num_local_experts", "num_experts"))
    shared = config.size("shared_expert_intermediate_size", default=512, lo=0)
    sparse = moe(
        heads.hidden,
        Experts(count, top_k, config.size("moe_intermediate_size")),
        shared=Shared(shared),
    )
    beside = norms(heads.hidden, *PRE_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm")
    return decoder(config, lambda i: attention(slides[i]), lambda _: sparse, layer_norms=beside)


def nanochat(config: Fields) -> Decoder:
    """Norms without weights."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = plain_mlp(heads.hidden, config.size("intermediate_size"), names=("fc1", "fc2"))
    return uniform(config, attention, mlp, layer_norms=(), final_norm=())


def orion(config: Fields) -> Decoder:
    """Llama with norms that have biases."""
    heads = heads_of(config)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return uniform(
        config,
        gqa_attention(heads),
        mlp,
        layer_norms=norms(heads.hidden, *PRE_NORMS, bias=True),
        final_norm=norms(heads.hidden, "model.norm", bias=True),
    )


def minicpm_v(config: Fields) -> Decoder:
    """MiniCPM-V and -o: the file itself has the fields of the text model; `version` selects it."""
    readers = {"2.5": llama, "2.6": qwen2, "4": llama, "4.0": llama, "4.5": qwen3}
    version = str(config.get("version") or "2.6")
    if version not in readers:
        raise config.bad("version", ", ".join(readers))
    return readers[version](config)
