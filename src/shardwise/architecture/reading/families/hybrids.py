"""Hybrids with a state for each sequence: Nemotron-H, Jamba, Bamba, Granite 4, LFM2, Mamba."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

from shardwise.architecture.feed_forward import FeedForward, Moe, NoFeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Mamba2, Mixer, NoMixer
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    FULL,
    decoder,
    layer_types,
    max_context,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.experts import granite_experts
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    W123,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
    plain_mlp,
)
from shardwise.architecture.reading.states import (
    mamba1,
    mamba2,
    short_conv,
    state_dtype,
)
from shardwise.errors import InputError

#: Letters of hybrid_override_pattern.
_BLOCKS: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def nemotron_h(config: Fields) -> Decoder:
    """Blocks of one part each: Mamba-2, attention, MLP or experts."""
    kinds = _nemotron_blocks(config, "layers_block_type", "hybrid_override_pattern")
    parts = _nemotron_parts(config)
    hidden = config.size("hidden_size")
    read = Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size("max_position_embeddings"),
        layers=tuple(parts(kind) for kind in kinds),
        outer=norms(hidden, "backbone.norm_f"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="backbone.layers",
        embedding="backbone.embeddings",
    )
    return _nemotron_mtp(config, read, parts)


def _nemotron_blocks(config: Fields, listed: str, pattern: str) -> list[str]:
    kinds = [_named(kind) for kind in config.items(listed, str)]
    if not kinds:
        kinds = [_BLOCKS.get(letter, letter) for letter in config.text(pattern, "")]
    allowed = set(_BLOCKS.values())
    if not 0 < len(kinds) <= MAX_LAYERS or not set(kinds) <= allowed:
        raise config.bad(
            listed if config.has(listed) else pattern, f"letters {' '.join(_BLOCKS)}, one a layer"
        )
    return kinds


def _named(kind: str) -> str:
    """transformers 5 writes the kinds of all hybrids alike."""
    names = {"full_attention": "attention", "linear_attention": "mamba", "mamba2": "mamba"}
    return names.get(kind, kind)


def _nemotron_parts(config: Fields) -> Callable[[str], Layer]:
    hidden = config.size("hidden_size")
    bias = config.flag("mlp_bias", False)

    @cache
    def part(kind: str) -> Layer:
        beside = norms(hidden, "norm")
        if kind == "mamba":
            return Layer(_nemotron_mamba(config), NoFeedForward(), beside)
        if kind == "attention":
            own = config.flag("attention_bias", False)
            heads = heads_of(config, dim_default=128)
            made = gqa_attention(heads, Projections(at="mixer", bias=own, o_bias=own))
            return Layer(made, NoFeedForward(), beside)
        if kind == "mlp":
            width = config.size("intermediate_size")
            return Layer(NoMixer(), plain_mlp(hidden, width, at="mixer", bias=bias), beside)
        return Layer(NoMixer(), _nemotron_moe(config), beside)

    config.read.update(_NEMOTRON_MOE)
    return part


#: Read where a model has blocks with experts; files without such blocks have them too.
_NEMOTRON_MOE: Final = (
    "n_routed_experts",
    "n_shared_experts",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "moe_latent_size",
)


def _nemotron_mamba(config: Fields) -> Mamba2:
    shape = Mamba2(
        config.size("mamba_num_heads", default=128),
        config.size("mamba_head_dim", default=64),
        config.size("ssm_state_size", default=128),
        config.size("n_groups", default=8),
        config.size("conv_kernel", default=4),
    )
    return mamba2(
        config.size("hidden_size"),
        shape,
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
        dtype=state_dtype(config) or "fp32",
    )


def _nemotron_moe(config: Fields) -> Moe:
    """Plain experts, in Super and Ultra behind a projection to a smaller space."""
    hidden, latent = config.size("hidden_size"), config.size("moe_latent_size", default=0, lo=0)
    count, top_k = experts_of(config, "n_routed_experts")
    width = config.size("moe_intermediate_size")
    shared = config.size("moe_shared_expert_intermediate_size", default=0, lo=0)
    extra = ()
    if latent:
        extra = (
            *linear("mixer.fc1_latent_proj", latent, hidden, "shared_experts", "replicated",
                    "fc1_latent_proj"),
            *linear("mixer.fc2_latent_proj", hidden, latent, "shared_experts", "replicated",
                    "fc2_latent_proj"),
        )  # fmt: skip
    return moe(
        hidden,
        Experts(count, top_k, width, gated=False, input_size=latent),
        router=CORRECTED,
        shared=Shared(shared),
        at="mixer",
        extra=extra,
    )


def _nemotron_mtp(config: Fields, read: Decoder, parts: Callable[[str], Layer]) -> Decoder:
    """A draft is an attention block and one with experts; the first has the projection."""
    count = config.size("num_nextn_predict_layers", default=0, lo=0, hi=64)
    if not count:
        return read
    if config.has("mtp_layers_block_type") or config.has("mtp_hybrid_override_pattern"):
        kinds = _nemotron_blocks(config, "mtp_layers_block_type", "mtp_hybrid_override_pattern")
    else:
        kinds = ["attention", "moe"]
    hidden = read.hidden_size
    first = parts(kinds[0])
    beside = (
        *first.norms,
        *norms(hidden, "enorm", "hnorm", "final_layernorm"),
        *linear("eh_proj", hidden, 2 * hidden, "mlp", "replicated", "eh_proj"),
    )
    one = (replace(first, norms=beside), *(parts(kind) for kind in kinds[1:]))
    return replace(read, drafts=one * count, draft_prefix="mtp.layers")


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
    heads, layers = heads_of(config), num_layers(config)
    kinds = config.items("layer_types", str) or config.items("layers_block_type", str)
    kinds = kinds or ["mamba"] * layers
    kinds = [_named(kind) for kind in kinds]
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
    heads, layers = heads_of(config), num_layers(config)
    attending = frozenset(config.items("attn_layer_indices", int))
    kinds = config.items("layer_types", str)
    if kinds:
        attending = frozenset(i for i, kind in enumerate(kinds) if _named(kind) == "attention")
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
    """Mamba-2 and attention side by side in each layer; each is a layer of its own here."""
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
    hidden = config.size("hidden_size")
    inner = config.size("expand", default=2) * hidden
    dim = config.size("head_dim", default=64)
    shape = Mamba2(
        config.size("num_heads", default=inner // dim),
        dim,
        config.size("state_size", default=128),
        config.size("n_groups", default=1),
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
        # a state has no length; what engines take where the file names none
        max_context=config.size("max_position_embeddings", default=1_048_576),
        layers=(layer,) * num_layers(config),
        outer=norms(hidden, "backbone.norm_f"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="backbone.layers",
        embedding="backbone.embeddings",
    )


def jamba(config: Fields) -> Decoder:
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


def decilm(config: Fields) -> Decoder:
    """Llama-Nemotron (NAS): each layer has its own KV heads and MLP width, or a part is missing."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    dim = config.size("head_dim", default=hidden // count)
    bias = config.flag("attention_bias", False)
    blocks = config.items("block_configs", dict)
    if len(blocks) != num_layers(config):
        raise config.bad("block_configs", f"{num_layers(config)} objects, one a layer")

    @cache
    def mixer(kv: int, in_one_matrix: bool) -> Mixer:
        if in_one_matrix:
            return NoMixer(
                linear("self_attn.linear_attn", hidden, hidden, "attention", "rows", "linear_attn")
            )
        if not kv:
            return NoMixer()
        return gqa_attention(Heads(hidden, count, kv, dim), Projections(bias=bias, o_bias=bias))

    mlp = cache(lambda width: gated_mlp(hidden, width) if width else NoFeedForward())
    made = []
    for block in blocks:
        attention = Fields(block, f"{config.where}: block_configs").object("attention")
        ffn = Fields(block, f"{config.where}: block_configs").object("ffn")
        one = attention.flag("replace_with_linear", False)
        kv = 0 if one or attention.flag("no_op", False) else _kv_heads(attention, count)
        width = _deci_width(ffn, hidden)
        names = PRE_NORMS[0 if kv or one else 1 : 2 if width else 1]
        made.append(Layer(mixer(kv, one), mlp(width), norms(hidden, *names)))
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=tuple(made),
        outer=norms(hidden, "model.norm"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def _kv_heads(attention: Fields, count: int) -> int:
    if attention.has("num_key_value_heads"):
        return attention.size("num_key_value_heads", hi=count)
    return count // attention.size("n_heads_in_group", hi=count)


def _deci_width(ffn: Fields, hidden: int) -> int:
    """2/3 of ffn_mult times the hidden size, rounded up to 256, as DeciLM computes it."""
    if ffn.flag("no_op", False):
        return 0
    if ffn.flag("replace_with_linear", False):
        raise InputError(f"{ffn.where}: replace_with_linear is true", "allowed: false")
    if ffn.has("intermediate_size"):
        return ffn.size("intermediate_size")
    width = int(2 * ffn.number("ffn_mult") * hidden / 3)
    return -(-width // 256) * 256
