"""Inkling: relative positions by a projection, short convolutions in each layer, many experts.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import Heads, QkNorm, gqa_attention, with_gate
from shardwise.architecture.reading.common import decoder, layer_types, num_layers
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.deepseek import sparse_layers
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.tensor import Tensor

_FULL, _SLIDING = "hybrid", "hybrid_sliding"


def inkling(config: Fields) -> Decoder:
    """Inkling: five sliding layers, then one of full attention; drafts are dense layers."""
    config = _published(config)
    layers, hidden = num_layers(config), config.size("hidden_size")
    local = config.items("local_layer_ids", int) or [i for i in range(layers) if (i + 1) % 6]
    kinds = _kinds(config, layers, frozenset(local))
    attention = cache(lambda kind: _attention(config, kind))
    dense = gated_mlp(hidden, config.size("intermediate_size"))
    shared = config.size("n_shared_experts", default=2, lo=0, hi=MAX_EXPERTS)
    count, top_k = experts_of(config, config.name_of("n_routed_experts", "num_local_experts"))
    width = config.size("moe_intermediate_size")
    # the router also has outputs for the shared experts
    seen = shared if config.flag("shared_expert_sink", True) else 0
    made = moe(
        hidden,
        Experts(count, top_k, width),
        router=Router(correction="gate.e_score_correction_bias"),
        shared=Shared(shared * width),
        extra=(Tensor("mlp.gate.global_scale", 1, 1, "router"),),
    )
    rest = tuple(t for t in made.tensors if t.name != "mlp.gate")
    router = linear("mlp.gate", count + seen, hidden, "router", "replicated", "router")
    sparse = replace(made, tensors=router + rest)
    routed = sparse_layers(config, layers, config.size("dense_mlp_idx", default=0, lo=0))
    beside = norms(hidden, *PRE_NORMS)
    read = decoder(
        config,
        lambda i: attention(kinds[i]),
        lambda i: sparse if routed[i] else dense,
        layer_norms=beside,
        final_norm=norms(hidden, "model.embed_tokens.embed_norm", "model.norm"),
        context=config.size(config.name_of("max_position_embeddings", "model_max_length")),
    )
    drafts = config.size("num_mtp_layers", default=0, lo=0, hi=64)
    if not drafts:
        return read
    near = frozenset(config.items("mtp_local_layer_ids", int))
    fold = norms(hidden, "enorm", "hnorm", "final_layernorm")
    fold += linear("eh_proj", hidden, 2 * hidden, "mlp", "replicated", "eh_proj")
    made_drafts = tuple(
        Layer(attention(_SLIDING if i in near else _FULL), dense, beside + fold)
        for i in range(drafts)
    )
    return replace(read, drafts=made_drafts, draft_prefix="mtp.layers")


def _published(config: Fields) -> Fields:
    """The published file stores the width of experts as intermediate_size."""
    if not config.has("dense_intermediate_size"):
        return config
    names = {
        "moe_intermediate_size": config.size("intermediate_size"),
        "intermediate_size": config.size("dense_intermediate_size"),
    }
    return Fields({**config.values, **names}, config.where, config.read)


def _kinds(config: Fields, layers: int, local: frozenset[int]) -> list[str]:
    kinds = layer_types(config, layers, _FULL, _SLIDING)
    return kinds or [_SLIDING if i in local else _FULL for i in range(layers)]


def _heads(config: Fields, kind: str) -> Heads:
    """Sliding layers have their own head counts."""
    prefix = "swa_" if kind == _SLIDING else ""
    num = config.size(f"{prefix}num_attention_heads", default=config.size("num_attention_heads"))
    kv = config.size(f"{prefix}num_key_value_heads", default=config.size("num_key_value_heads"))
    if kv > num or num % kv:
        raise config.bad(f"{prefix}num_key_value_heads", f"a divisor of the {num} attention heads")
    dim = config.size(f"{prefix}head_dim", default=config.size("head_dim", default=128))
    return Heads(config.size("hidden_size"), num, kv, dim)


def _window(config: Fields, default: int) -> int:
    return config.size(config.name_of("sliding_window_size", "sliding_window"), default=default)


def _attention(config: Fields, kind: str) -> Attention:
    heads = _heads(config, kind)
    window = _window(config, 512) if kind == _SLIDING else 0
    extent = window or config.size("rel_extent", default=1024)
    made = gqa_attention(heads, qk_norm=QkNorm(), window=window)
    tensors = (
        *made.tensors,
        *_relative(config, heads, extent),
        *_convolutions(config, heads, ("self_attn.k_sconv.conv1d", "self_attn.v_sconv.conv1d"),
                       ("attn_sconv.conv1d", "mlp_sconv.conv1d")),
    )  # fmt: skip
    return replace(made, tensors=tensors, caches=made.caches + _conv_states(config, heads))


def _relative(config: Fields, heads: Heads, extent: int) -> tuple[Tensor, ...]:
    rank = config.size("d_rel", default=16)
    return (
        *linear("self_attn.r_proj", heads.num * rank, heads.hidden, "attention", "rows",
                "qkv_proj", units=heads.num),
        Tensor("self_attn.rel_logits_proj.proj", rank, extent, "attention"),
    )  # fmt: skip


def _convolutions(
    config: Fields, heads: Heads, of_kv: tuple[str, ...], of_hidden: tuple[str, ...]
) -> tuple[Tensor, ...]:
    kernel = config.size(config.name_of("conv_kernel_size", "sconv_kernel_size"), default=4)
    width = heads.kv * heads.dim
    return (
        *(Tensor(name, width, kernel, "attention", "rows", heads.kv) for name in of_kv),
        *(Tensor(name, heads.hidden, kernel, "attention") for name in of_hidden),
    )


def _conv_states(config: Fields, heads: Heads) -> tuple[Cache, ...]:
    """The last inputs of the convolutions of keys, values and both residuals."""
    kernel = config.size(config.name_of("conv_kernel_size", "sconv_kernel_size"), default=4)
    kept = float(kernel - 1)
    width = 2.0 * heads.kv * heads.dim
    return (
        Cache("conv_state", kept * width, heads.kv, per_sequence=True),
        Cache("conv_state", kept * 2.0 * heads.hidden, per_sequence=True),
    )


def inkling2(config: Fields) -> Decoder:
    """Inkling 2: gated attention with projected sinks, residuals of blocks that are attended to."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    kinds = _kinds(config, layers, frozenset(i for i in range(layers) if (i + 1) % 6))
    attention = cache(lambda kind: _attention2(config, kind))
    count, top_k = experts_of(config, config.name_of("n_routed_experts", "num_local_experts"))
    width = config.size(config.name_of("moe_intermediate_size", "intermediate_size"))
    sparse = moe(hidden, Experts(count, top_k, width), router=CORRECTED)
    query = norms(hidden, "mlp_input.query")
    near = norms(hidden, *PRE_NORMS) + query
    far = norms(hidden, "q_input_layernorm", "k_input_layernorm", "v_input_layernorm",
                "post_attention_layernorm") + query  # fmt: skip
    beside = {
        _SLIDING: near + norms(hidden, "attention_input.query"),
        _FULL: (*far, Tensor("attention_input.query", 3, hidden, "norm")),
    }
    outer = norms(hidden, "model.embed_tokens.embed_norm", "model.norm", "model.final_input.query")
    return decoder(
        config,
        lambda i: attention(kinds[i]),
        lambda _: sparse,
        # the first layer has no earlier block to attend to
        layer_norms=lambda i: beside[kinds[i]] if i else {_SLIDING: near, _FULL: far}[kinds[0]],
        final_norm=outer,
        context=config.size(config.name_of("max_position_embeddings", "model_max_length")),
    )


def _attention2(config: Fields, kind: str) -> Attention:
    heads = _heads(config, kind)
    window = _window(config, 1024) if kind == _SLIDING else 0
    extent = window or config.size("rel_extent", default=1024)
    rank = config.size("d_rel", default=16)
    made = gqa_attention(heads, window=window)
    extra = (
        *linear("self_attn.sink_proj", heads.num, heads.hidden, "attention", "rows", "sink_proj",
                units=heads.num),
        Tensor("self_attn.q_l2_clip.scale", heads.num, heads.dim, "attention", "rows", heads.num),
        Tensor("self_attn.rel_l2_clip.scale", heads.num, rank, "attention", "rows", heads.num),
        *_relative(config, heads, extent),
        *_own_convolutions(config, heads, kind),
    )  # fmt: skip
    gated = with_gate(made, heads, extra=extra)
    return replace(gated, caches=gated.caches + _conv_states(config, heads))


def _own_convolutions(config: Fields, heads: Heads, kind: str) -> tuple[Tensor, ...]:
    """Fixed filters in sliding layers; in the others each KV head's filter follows the input."""
    of_hidden = ("post_attention_convolution.conv1d", "post_mlp_convolution.conv1d")
    if kind == _SLIDING:
        names = ("self_attn.k_sconv.conv1d", "self_attn.v_sconv.conv1d")
        return _convolutions(config, heads, names, of_hidden)
    kernel = config.size(config.name_of("conv_kernel_size", "sconv_kernel_size"), default=4)
    names = ("self_attn.k_sconv.static_weight", "self_attn.v_sconv.static_weight")
    fixed = _convolutions(config, heads, names, of_hidden)
    made = tuple(
        tensor
        for name in ("k_sconv_proj", "v_sconv_proj")
        for tensor in linear(f"self_attn.{name}", kernel * heads.kv, heads.hidden, "attention",
                             "rows", name, units=heads.kv)
    )  # fmt: skip
    return fixed + made
