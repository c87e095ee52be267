"""Mamba, and hybrids of it with attention: Jamba, Bamba, Granite 4, Falcon-H1."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward, NoFeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Mamba2, Mixer
from shardwise.architecture.reading.attention import (
    Projections,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    decoder,
    max_context,
    num_layers,
)
from shardwise.architecture.reading.decoder import Decoder, Layer, norms
from shardwise.architecture.reading.families.experts import granite_experts
from shardwise.architecture.reading.families.nemotron import hybrid_kind
from shardwise.architecture.reading.mlps import (
    Experts,
    Router,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.reading.states import (
    mamba1,
    mamba2,
    state_dtype,
)


def _mamba_shape(config: Fields, hidden: int) -> Mamba2:
    """Under the names of Bamba, Granite 4 and Falcon-H1."""
    heads = config.size("mamba_n_heads", default=128)
    inner = config.size("mamba_expand", default=2) * hidden
    inner = config.size("mamba_d_ssm", default=inner)
    dim = config.get("mamba_d_head")
    size = inner // heads if dim in (None, "auto") else config.size("mamba_d_head")
    return Mamba2(
        heads,
        size,
        config.size("mamba_d_state", default=256),
        config.size("mamba_n_groups", default=1),
        config.size("mamba_d_conv", default=4),
    )


def _own_mamba(config: Fields, *, gate_norm: bool = True) -> Mamba2:
    hidden = config.size("hidden_size")
    return mamba2(
        hidden,
        _mamba_shape(config, hidden),
        at="mamba",
        bias=config.flag("mamba_proj_bias", False),
        conv_bias=config.flag("mamba_conv_bias", True),
        gate_norm=gate_norm,
        dtype=state_dtype(config),
    )


def granite_hybrid(config: Fields) -> Decoder:
    """Granite 4: Mamba-2 and attention layers, each with experts or an MLP."""
    config = config.with_defaults(shared_intermediate_size=1024)
    heads, layers = heads_of(config), num_layers(config)
    kinds = config.items("layer_types", str) or config.items("layers_block_type", str)
    kinds = kinds or ["mamba"] * layers
    kinds = [hybrid_kind(kind) for kind in kinds]
    if len(kinds) != layers or not set(kinds) <= {"mamba", "attention"}:
        raise config.bad("layer_types", f"{layers} times mamba or attention")
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    state, feed_forward = _own_mamba(config), granite_experts(config)
    return decoder(
        config,
        lambda i: state if kinds[i] == "mamba" else attention,
        lambda _: feed_forward,
    )


def bamba(config: Fields) -> Decoder:
    """Bamba: Mamba-2 layers with a few attention layers."""
    heads, layers = heads_of(config), num_layers(config)
    attending = frozenset(config.items("attn_layer_indices", int))
    kinds = config.items("layer_types", str)
    if kinds:
        attending = frozenset(i for i, kind in enumerate(kinds) if hybrid_kind(kind) == "attention")
    attention, state = gqa_attention(heads), _own_mamba(config)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), at="feed_forward")
    return decoder(
        config,
        lambda i: attention if i in attending else state,
        lambda _: mlp,
        layer_norms=norms(heads.hidden, "input_layernorm", "pre_ff_layernorm"),
        final_norm=norms(heads.hidden, "model.final_layernorm"),
        context=max_context(config, default=262144) if layers else 0,
    )


def falcon_h1(config: Fields) -> Decoder:
    """Mamba-2 and attention in parallel in each layer; each is read as a separate layer."""
    heads, layers = heads_of(config), num_layers(config)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    state = _own_mamba(config, gate_norm=config.flag("mamba_rms_norm", False))
    mlp = gated_mlp(
        heads.hidden,
        config.size("intermediate_size"),
        at="feed_forward",
        bias=config.flag("mlp_bias", False),
    )
    beside = norms(heads.hidden, "input_layernorm", "pre_ff_layernorm")
    made = []
    for number in range(layers):
        made.append(Layer(state, NoFeedForward(), (), number))
        made.append(Layer(attention, mlp, beside, number))
    return Decoder(
        hidden_size=heads.hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=tuple(made),
        outer=norms(heads.hidden, "model.final_layernorm"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def mamba_2(config: Fields) -> Decoder:
    """Mamba-2: no attention and no MLP."""
    hidden = config.size("hidden_size")
    inner = config.size("expand", default=2) * hidden
    dim = config.size("head_dim", default=64)
    shape = Mamba2(
        config.size("num_heads", default=inner // dim),
        dim,
        config.size("state_size", default=128),
        config.size("n_groups", default=8),
        config.size("conv_kernel", default=4),
    )
    mixer = mamba2(
        hidden,
        shape,
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
        dtype=state_dtype(config),
    )
    return _states_alone(config, mixer)


def mamba(config: Fields) -> Decoder:
    """Mamba: selective state spaces, no attention and no MLP."""
    hidden = config.size("hidden_size")
    inner = config.size("intermediate_size", default=config.size("expand", default=2) * hidden)
    rank = config.get("time_step_rank")
    size = -(-hidden // 16) if rank in (None, "auto") else config.size("time_step_rank")
    mixer = mamba1(
        hidden,
        inner,
        config.size("state_size", default=16),
        size,
        config.size("conv_kernel", default=4),
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
    )
    return replace(
        _states_alone(config, mixer), tie_embeddings=config.flag("tie_word_embeddings", True)
    )


def _states_alone(config: Fields, mixer: Mixer) -> Decoder:
    hidden = config.size("hidden_size")
    layer = Layer(mixer, NoFeedForward(), norms(hidden, "norm"))
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        # a state has no maximum length; this is the default of engines
        max_context=config.size("max_position_embeddings", default=1_048_576),
        layers=(layer,) * num_layers(config),
        outer=norms(hidden, "backbone.norm_f"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="backbone.layers",
        embedding="backbone.embeddings",
    )


def jamba(config: Fields) -> Decoder:
    """Jamba: Mamba layers, attention at an interval, experts at another."""
    heads, layers = heads_of(config), num_layers(config)
    hidden = heads.hidden
    period = config.size("attn_layer_period", default=8)
    offset = config.size("attn_layer_offset", default=4, lo=0)
    sparse_period = config.size("expert_layer_period", default=2)
    sparse_offset = config.size("expert_layer_offset", default=1, lo=0)
    inner = config.size("mamba_expand", default=2) * hidden
    rank = config.get("mamba_dt_rank")
    state = mamba1(
        hidden,
        inner,
        config.size("mamba_d_state", default=16),
        -(-hidden // 16) if rank in (None, "auto") else config.size("mamba_dt_rank"),
        config.size("mamba_d_conv", default=4),
        at="mamba",
        bias=config.flag("mamba_proj_bias", False),
        conv_bias=config.flag("mamba_conv_bias", True),
        norms_on=True,
    )
    attention = gqa_attention(heads)
    width = config.size("intermediate_size")
    dense: FeedForward = gated_mlp(hidden, width, at="feed_forward")
    count, top_k = experts_of(config, "num_experts")
    sparse: FeedForward = dense
    if count > 1:
        sparse = moe(
            hidden, Experts(count, top_k, width), router=Router("router"), at="feed_forward"
        )
    return decoder(
        config,
        lambda i: attention if i % period == offset else state,
        lambda i: sparse if i % sparse_period == sparse_offset else dense,
        layer_norms=norms(hidden, "input_layernorm", "pre_ff_layernorm"),
        final_norm=norms(hidden, "model.final_layernorm"),
        context=max_context(config, default=262144) if layers else 0,
    )
