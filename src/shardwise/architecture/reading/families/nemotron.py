"""Nemotron-H and Nemotron 3, and Llama-Nemotron with layers of different shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from msgspec.structs import replace

from shardwise.architecture.feed_forward import Moe, NoFeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Mamba2, Mixer, NoMixer
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    max_context,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norms
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    Experts,
    Shared,
    experts_of,
    gated_mlp,
    moe,
    plain_mlp,
)
from shardwise.architecture.reading.states import (
    mamba2,
    state_dtype,
)
from shardwise.architecture.tensor import Tensor
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
    kinds = [hybrid_kind(kind) for kind in config.items(listed, str)]
    if not kinds:
        kinds = [_BLOCKS.get(letter, letter) for letter in config.text(pattern, "")]
    allowed = set(_BLOCKS.values())
    if not 0 < len(kinds) <= MAX_LAYERS or not set(kinds) <= allowed:
        raise config.bad(
            listed if config.has(listed) else pattern, f"letters {' '.join(_BLOCKS)}, one a layer"
        )
    return kinds


def hybrid_kind(kind: str) -> str:
    """Translate a layer type of transformers 5, which uses the same names for all hybrids."""
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
    """Experts without a gate; in Super and Ultra, in a smaller latent space."""
    hidden, latent = config.size("hidden_size"), config.size("moe_latent_size", default=0, lo=0)
    count, top_k = experts_of(config, "n_routed_experts")
    width = config.size("moe_intermediate_size")
    shared = config.size("moe_shared_expert_intermediate_size", default=7688, lo=0)
    extra: tuple[Tensor, ...] = ()
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
    """A draft has an attention block, which includes the projection, and a block with experts."""
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
