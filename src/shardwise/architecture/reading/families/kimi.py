"""Kimi Linear and K3, Ling 3: Kimi Delta Attention with interleaved MLA layers."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Mla
from shardwise.architecture.reading.attention import mla
from shardwise.architecture.reading.common import (
    FULL,
    LINEAR,
    decoder,
    layer_types,
    max_context,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, linear, norms
from shardwise.architecture.reading.families.deepseek import (
    deepseek_moe,
    sparse_layers,
    with_mtp,
)
from shardwise.architecture.reading.families.ling import ling_2_5
from shardwise.architecture.reading.mlps import (
    CORRECTED,
    W123,
    Experts,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.reading.states import DeltaShape, kimi_delta_attention
from shardwise.architecture.tensor import Tensor


def kimi_linear(config: Fields) -> Decoder:
    """Three layers of delta attention, then one of MLA; K3 adds gates and latent experts."""
    hidden, layers = config.size("hidden_size"), num_layers(config)
    options = config.object("linear_attn_config")
    shape = DeltaShape(
        options.size("num_heads", default=config.size("linear_num_heads", default=32)),
        options.size("head_dim", default=config.size("linear_head_dim", default=128)),
        options.size(
            "short_conv_kernel_size", default=config.size("linear_conv_kernel_dim", default=4)
        ),
        low_rank_g=not options.flag("use_full_rank_gate", False),
    )
    delta = kimi_delta_attention(hidden, shape)
    attention = _attention(config)
    attending = _attending(config, options, layers)
    beside = norms(hidden, *PRE_NORMS)
    final = norms(hidden, "model.norm")
    if config.has("attn_res_block_size"):  # K3 weighs the residuals of earlier blocks
        beside += _residual("self_attention_res", hidden) + _residual("mlp_res", hidden)
        final += _residual("model.output_attn_res", hidden)
    return decoder(
        config,
        lambda i: attention if i in attending else delta,
        _experts(config, layers),
        layer_norms=beside,
        final_norm=final,
        context=max_context(config, config.name_of("max_position_embeddings", "model_max_length")),
    )


def _residual(name: str, hidden: int) -> tuple[Tensor, ...]:
    return (Tensor(f"{name}_norm", hidden, 1, "norm"), Tensor(f"{name}_proj", hidden, 1, "norm"))


def _attention(config: Fields) -> Mla:
    if "q_lora_rank" not in config.values:
        config = Fields({**config.values, "q_lora_rank": None}, config.where, config.read)
    made = mla(config, bias=config.flag("attention_bias", False))
    heads = made.num_heads
    rows = {"": 0, "head_wise": heads, "element_wise": heads * made.v_head_dim}
    granularity = config.text("gated_attention_proj_granularity_type", "")
    if granularity not in rows:
        raise config.bad("gated_attention_proj_granularity_type", "head_wise or element_wise")
    gated = config.flag("mla_use_output_gate", False)
    size = heads * made.v_head_dim if gated else rows[granularity]
    if not size:
        return made
    gate = linear(
        "self_attn.g_proj", size, config.size("hidden_size"),
        "attention", "rows", "g_proj", units=heads,
    )  # fmt: skip
    return replace(made, tensors=made.tensors + gate)


def _attending(config: Fields, options: Fields, layers: int) -> set[int]:
    """Layers with MLA."""
    kinds = layer_types(config, layers, LINEAR, FULL)
    if kinds:
        return {i for i, kind in enumerate(kinds) if kind == FULL}
    full = options.items("full_attn_layers", int)
    if full:
        return {number - 1 for number in full}  # counted from one in the file
    return {i for i in range(layers) if i and i % 4 == 0}


def _experts(config: Fields, layers: int) -> Callable[[int], FeedForward]:
    latent = config.size("routed_expert_hidden_size", default=0, lo=0)
    if not latent:
        return deepseek_moe(config, correction_bias=True, dense_layers=1)
    hidden, width = config.size("hidden_size"), config.size("moe_intermediate_size")
    count, top_k = experts_of(
        config, "num_experts", config.name_of("num_experts_per_token", "num_experts_per_tok")
    )
    shared = config.size("num_shared_experts", default=0, lo=0, hi=MAX_EXPERTS)
    at = "block_sparse_moe"
    extra = (
        *linear(f"{at}.routed_expert_down_proj", latent, hidden, "shared_experts", "replicated",
                "routed_expert_down_proj"),
        *linear(f"{at}.routed_expert_up_proj", hidden, latent, "shared_experts", "replicated",
                "routed_expert_up_proj"),
        *(norms(latent, f"{at}.routed_expert_norm")
          if config.flag("latent_moe_use_norm", False) else ()),
    )  # fmt: skip
    sparse = moe(
        hidden,
        Experts(count, top_k, width, W123, input_size=latent),
        router=CORRECTED,
        shared=Shared(shared * width),
        at=at,
        extra=extra,
    )
    dense = gated_mlp(hidden, config.size("intermediate_size"))
    routed = sparse_layers(config, layers, 1)
    return lambda i: sparse if routed[i] else dense


def bailing_hybrid(config: Fields) -> Decoder:
    """Ling 3: every n-th layer is MLA; gates of full rank. Ling 2.5 has the same model_type."""
    if "BailingMoeV2_5ForCausalLM" in config.items("architectures", str) or (
        config.has("group_norm_size")
        and not config.has("short_conv_kernel_size")
        and not config.has("no_kda_lora")
    ):
        return ling_2_5(config)
    hidden, layers = config.size("hidden_size"), num_layers(config)
    heads = config.size("num_attention_heads")
    # if head_dim is the size of MLA heads, transformers stores that of delta heads separately
    name = config.name_of("linear_head_dim", "head_dim")
    shape = DeltaShape(
        config.size("linear_num_heads", default=heads),
        config.size(name, default=128),
        config.size("short_conv_kernel_size", default=4),
        low_rank_f=False,
        low_rank_g=False,
    )
    delta = kimi_delta_attention(hidden, shape)
    attention = _attention(config)
    group = config.size("layer_group_size", default=6)
    kinds = layer_types(config, layers, LINEAR, FULL)
    whole = layers // group * group  # the layers behind the last whole group are full too
    full = [(i + 1) % group == 0 or i >= whole for i in range(layers)]
    kinds = kinds or [FULL if is_full else LINEAR for is_full in full]
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    read = decoder(
        config,
        lambda i: attention if kinds[i] == FULL else delta,
        experts,
        context=max_context(config, config.name_of("max_position_embeddings", "model_max_length")),
    )
    drafted = with_mtp(config, read)
    drafts = tuple(replace(draft, mixer=attention) for draft in drafted.drafts)
    return replace(drafted, drafts=drafts)
