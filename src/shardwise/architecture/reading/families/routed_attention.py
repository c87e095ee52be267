"""Experts outside the MLP: JetMoE's attention experts, ZAYA's routers and compressed attention.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    decoder,
    layer_types,
    num_layers,
    uniform,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, linear, norms
from shardwise.architecture.reading.mlps import Experts, MlpNames, Router, experts_of, moe
from shardwise.architecture.tensor import Tensor


def jetmoe(config: Fields) -> Decoder:
    """JetMoE (arXiv:2404.07413): also experts of the query and output projections.

    Each selected expert has as many query heads as there are KV heads.
    """
    hidden, kv = config.size("hidden_size"), config.size("num_key_value_heads")
    dim = config.size(config.name_of("kv_channels", "head_dim"), default=128)
    count, top_k = experts_of(config, config.name_of("num_local_experts", "moe_num_experts"),
                              config.name_of("num_experts_per_tok", "moe_top_k"))  # fmt: skip
    config.has("num_attention_heads")
    at, inner = "self_attention", kv * dim
    own = gqa_attention(Heads(hidden, kv * top_k, kv, dim), Projections(at))
    tensors = (
        *linear(f"{at}.kv_proj", 2 * inner, hidden, "attention", "rows", "kv_proj", units=kv),
        *linear(f"{at}.experts.input_linear", inner, hidden, "attention", "rows", "q_proj",
                units=kv, copies=count),
        *linear(f"{at}.experts.output_linear", hidden, inner, "attention", "cols", "o_proj",
                units=kv, copies=count),
        *linear(f"{at}.experts.router.layer", count, hidden, "router", "replicated",
                "attention_router"),
        Tensor(f"{at}.experts.bias", hidden, 1, "attention"),
    )  # fmt: skip
    attention = replace(own, tensors=tensors)
    names = MlpNames("input_linear", "input_linear", "output_linear")
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size(config.name_of("intermediate_size",
                                                         "ffn_hidden_size")), names),
        router=Router("router.layer"),
        extra=(Tensor("mlp.bias", hidden, 1, "experts"),),
    )  # fmt: skip
    context = config.size(config.name_of("max_position_embeddings", "n_positions"), default=4096)
    layers = num_layers(config, config.name_of("num_hidden_layers", "num_layers"))
    return uniform(
        config.with_defaults(num_hidden_layers=layers), attention, sparse, tie=True, context=context
    )


def zaya(config: Fields) -> Decoder:
    """ZAYA: attention in a compressed space with convolutions, routers of several layers."""
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    bias = config.flag("attention_bias", False)
    window = config.size("sliding_window", default=0, lo=0)
    kinds = layer_types(config, layers, "hybrid", "hybrid_sliding") or ["hybrid"] * layers

    @cache
    def attention(kind: str) -> Attention:
        return _zaya_attention(config, heads, bias, window if kind == "hybrid_sliding" else 0)

    scales = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
    names = [f"{at}.{name}" for at in ("post_attention_residual_scale", "post_mlp_residual_scale")
             for name in scales]  # fmt: skip
    first, later = _zaya_experts(config, heads.hidden, 0), _zaya_experts(config, heads.hidden, 1)
    read = decoder(
        config,
        lambda i: attention(kinds[i]),
        lambda i: later if i else first,
        layer_norms=norms(heads.hidden, *PRE_NORMS, *names),
        final_norm=norms(heads.hidden, "model.input_hidden_states_scale",
                         "model.input_hidden_states_bias", "model.norm"),
        tie=True,
    )  # fmt: skip
    return replace(read, lm_head_bias=config.flag("lm_head_bias", False))


def _zaya_attention(config: Fields, heads: Heads, bias: bool, window: int) -> Attention:
    """Half of the values come from the previous token."""
    at = "self_attn.qkv_proj"
    first, second = config.size("cca_time0", default=2), config.size("cca_time1", default=2)
    both = (heads.num + heads.kv) * heads.dim
    half = heads.kv * heads.dim // 2
    units = heads.kv
    rows = (("q_proj", heads.num * heads.dim), ("k_proj", heads.kv * heads.dim),
            ("v_proj_current", half), ("v_proj_delayed", half))  # fmt: skip
    made = gqa_attention(heads, Projections(o_bias=bias), window=window)
    tensors = (
        *(t for name, size in rows
          for t in linear(f"{at}.{name}", size, heads.hidden, "attention", "rows", "qkv_proj",
                          units=units, bias=bias)),
        Tensor(f"{at}.conv_qk_depthwise", both, first, "attention", "rows", units),
        Tensor(f"{at}.conv_qk_depthwise.bias", both, 1, "attention", "rows", units),
        Tensor(f"{at}.conv_qk_grouped", both, heads.dim * second, "attention", "rows", units),
        Tensor(f"{at}.conv_qk_grouped.bias", both, 1, "attention", "rows", units),
        Tensor("self_attn.qk_norm.temp", units, 1, "attention", "rows", units),
        *(t for t in made.tensors if t.name.startswith("self_attn.o_proj")),
    )  # fmt: skip
    kept = float(both * (first + second - 2) + heads.hidden)
    state = Cache("conv_state", kept, units, per_sequence=True)
    return replace(made, tensors=tensors, caches=(*made.caches, state))


def _zaya_experts(config: Fields, hidden: int, earlier: int) -> FeedForward:
    """One expert per token, or none: the router has one more output than there are experts.

    `earlier`: 1 if the router uses the state of the previous layer.
    """
    count, top_k = experts_of(config, "num_experts")
    rank = config.size("router_hidden_size", default=256)
    made = moe(hidden, Experts(count, top_k, config.size("moe_intermediate_size")))
    at = "mlp.gate"
    router = (
        *linear(f"{at}.down_proj", rank, hidden, "router", "replicated", "router", bias=True),
        Tensor(f"{at}.router_mlp.norm", rank, 1, "router"),
        *linear(f"{at}.router_mlp.fc1", rank, rank, "router", "replicated", "router.fc1",
                bias=True),
        *linear(f"{at}.router_mlp.fc2", rank, rank, "router", "replicated", "router.fc2",
                bias=True),
        *linear(f"{at}.router_mlp.out_proj", count + 1, rank, "router", "replicated",
                "router.out"),
        *(Tensor(f"{at}.router_states_scale", rank, 1, "router") for _ in range(earlier)),
    )  # fmt: skip
    return replace(made, tensors=router + tuple(t for t in made.tensors if t.part == "experts"))
