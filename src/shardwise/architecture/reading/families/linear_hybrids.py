"""Hybrids of linear attention: Jet-Nemotron, GigaChat 3.5, AliceAI, MiniCPM-SALA.

Shapes: sglang/srt/models/jet_nemotron.py, gigachat35.py and minicpm.py,
vllm/model_executor/models/alice_ai.py.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, LinearAttention, Mixer
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
    mla,
    with_gate,
)
from shardwise.architecture.reading.common import (
    FULL,
    LINEAR,
    decoder,
    layer_types,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, linear, norm, norms
from shardwise.architecture.reading.families.deepseek import deepseek_moe
from shardwise.architecture.reading.mlps import Experts, Router, Shared, experts_of, gated_mlp, moe
from shardwise.architecture.reading.states import (
    DeltaShape,
    gated_delta_net,
    kimi_delta_attention,
    states,
    vectors,
)
from shardwise.architecture.tensor import Tensor


def jet_nemotron(config: Fields) -> Decoder:
    """Jet-Nemotron (arXiv:2508.15884): gated delta rule whose convolution depends on the input, and
    a few layers of full or sliding attention."""
    heads, layers = heads_of(config), num_layers(config)
    options = config.object("efficient_attention_config")
    kinds = layer_types(config, layers, "jet", "attn", "swa")
    if not kinds:
        raise config.bad("layer_types", f"{layers} times jet, attn or swa")
    window = 0
    if "swa" in kinds:
        window = options.object("swa").size("window_size")
    qkv = Projections(bias=True)
    attention = cache(lambda size: gqa_attention(heads, qkv, window=size))
    jet = _jet_block(options.object("jet"), heads.hidden) if "jet" in kinds else None
    mixers: list[Mixer] = [
        jet if jet is not None and kind == "jet" else attention(window if kind == "swa" else 0)
        for kind in kinds
    ]
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: mixers[i], lambda _: mlp, tie=True)


def _jet_block(options: Fields, hidden: int) -> LinearAttention:
    heads, dim = options.size("num_heads"), options.size("head_dim")
    value_dim = int(dim * options.number("expand_v"))
    kernel, at = options.size("conv_size"), "self_attn"
    keys, values = heads * dim, heads * value_dim
    rank = hidden // options.size("dconv_generator_reduction")
    rows = (("q_proj", keys), ("k_proj", keys), ("v_proj", values), ("b_proj", heads),
            ("a_proj", heads), ("g_proj", values))  # fmt: skip
    convolution = f"{at}.dynamic_conv1d.kernel_generator"
    tensors = (
        *(t for name, size in rows
          for t in linear(f"{at}.{name}", size, hidden, "attention", "rows", "qkvabz_proj",
                          units=heads)),
        *vectors(at, ("A_log", "dt_bias"), heads, heads),
        *linear(f"{convolution}.w1", rank, hidden, "attention", "replicated", "dconv_w1"),
        *linear(f"{convolution}.w2", values * kernel, rank, "attention", "rows", "dconv_w2",
                units=heads, bias=True),
        *norm(f"{at}.o_norm", value_dim),
        *linear(f"{at}.o_proj", hidden, values, "attention", "cols", "o_proj", units=heads),
    )  # fmt: skip
    caches = states(values, kernel, heads * dim * value_dim, (heads, heads), "fp32")
    return LinearAttention("gdn", heads, heads, dim, value_dim, kernel, tensors, caches)


def gigachat3_5(config: Fields) -> Decoder:
    """GigaChat 3.5: gated delta net with interleaved gated MLA; norms with a low-rank gate."""
    hidden, layers = config.size("hidden_size"), num_layers(config)
    kinds = _full_layers(config, layers)
    gated = config.flag("gated_attention", False)
    own = _mla_with_gate(config, gated=gated)
    delta = gated_delta_net(config, split=False)
    style = config.text("layernorm_type", "pre")
    if style not in ("pre", "post", "pre_post"):
        raise config.bad("layernorm_type", "pre, post or pre_post")
    names: tuple[str, ...] = PRE_NORMS
    if style != "pre":
        names = (*PRE_NORMS, "post_self_attn_layernorm", "post_feedforward_layernorm")
    experts = deepseek_moe(config, correction_bias=True, dense_layers=1)
    return decoder(
        config,
        lambda i: own if kinds[i] else delta,
        experts,
        layer_norms=_gated_norms(config, hidden, *names),
        final_norm=_gated_norms(config, hidden, "model.norm"),
    )


def _full_layers(config: Fields, layers: int) -> list[bool]:
    kinds = layer_types(config, layers, LINEAR, FULL, "attention")
    if kinds:
        return [kind != LINEAR for kind in kinds]
    full = config.items("full_attention_layers", int)
    if not full:
        raise config.bad("layer_types", f"{layers} times attention or {LINEAR}")
    return [i in full for i in range(layers)]


#: Rank of the gate of GigaChat's norms: a constant of its modelling code.
_NORM_RANK = 16


def _gated_norms(config: Fields, size: int, *names: str) -> tuple[Tensor, ...]:
    """Norms of `size`, with a gate of two low-rank matrices if the file's norm_type has one."""
    kind = config.text("norm_type", "LlamaRMSNorm")
    plain = norms(size, *names)
    if kind in ("LlamaRMSNorm", "ZeroCenteredRMSNorm"):
        return plain
    if kind not in ("ZeroCenteredGatedNorm", "GatedNorm"):
        raise config.bad("norm_type", "LlamaRMSNorm, ZeroCenteredRMSNorm, GatedNorm or "
                         "ZeroCenteredGatedNorm")  # fmt: skip
    gates = tuple(
        tensor
        for name in names
        for tensor in (
            Tensor(f"{name}.gate_up_lowrank", _NORM_RANK, size, "norm"),
            Tensor(f"{name}.gate_down_lowrank", size, _NORM_RANK, "norm"),
        )
    )
    return plain + gates


def _mla_with_gate(config: Fields, *, gated: bool) -> Mixer:
    made = mla(config, bias=config.flag("attention_bias", False))
    tensors = tuple(t for t in made.tensors if not t.name.endswith("_layernorm"))
    if made.q_lora_rank:
        tensors += _gated_norms(config, made.q_lora_rank, "self_attn.q_a_layernorm")
    tensors += _gated_norms(config, made.kv_lora_rank, "self_attn.kv_a_layernorm")
    if gated:
        hidden, heads = config.size("hidden_size"), made.num_heads
        tensors += linear("self_attn.attn_gate", heads * made.v_head_dim, hidden, "attention",
                          "rows", "g_proj", units=heads)  # fmt: skip
    return replace(made, tensors=tensors)


def alice_ai(config: Fields) -> Decoder:
    """AliceAI: Kimi Delta Attention with interleaved gated GQA, Qwen's experts, and residuals that
    weigh earlier blocks."""
    heads, layers = heads_of(config), num_layers(config)
    hidden = heads.hidden
    if not config.has("block_attn_res_block_size"):
        raise config.bad("block_attn_res_block_size", "a whole number above 0")
    kinds = layer_types(config, layers, LINEAR, FULL)
    if not kinds:
        raise config.bad("layer_types", f"{layers} times {LINEAR} or {FULL}")
    nk, dk = config.size("linear_num_key_heads"), config.size("linear_key_head_dim")
    for name, size in (("linear_num_value_heads", nk), ("linear_value_head_dim", dk)):
        if config.size(name) != size:
            raise config.bad(name, f"{size}, as for keys")
    shape = DeltaShape(nk, dk, config.size("linear_conv_kernel_dim"))
    delta = kimi_delta_attention(hidden, shape, at="linear_attn")
    attention = gqa_attention(heads, Projections(gated=True), qk_norm=QkNorm())
    beside = ("attn_res_proj", "attn_res_norm_weight", "mlp_res_proj", "mlp_res_norm_weight")
    count, top_k = experts_of(config, "num_experts")
    shared = config.size("shared_expert_intermediate_size", default=0, lo=0)
    sparse = moe(
        hidden,
        Experts(count, top_k, config.size("moe_intermediate_size")),
        router=Router(correction="gate.e_score_correction_bias"),
        shared=Shared(shared, "shared_expert", "shared_expert_gate") if shared else None,
    )
    return decoder(
        config,
        lambda i: delta if kinds[i] == LINEAR else attention,
        lambda _: sparse,
        layer_norms=norms(hidden, *PRE_NORMS, *beside),
        final_norm=norms(
            hidden, "model.norm", "attnres_final.res_proj", "attnres_final.res_norm_weight"
        ),
    )


def minicpm_sala(config: Fields) -> Decoder:
    """MiniCPM-SALA: lightning attention in three layers of four, GQA in the others.

    GQA layers may read only selected blocks of the cache; they are read as full attention.
    """
    heads, layers = heads_of(config), num_layers(config)
    given = config.items("mixer_types", str) or ["minicpm4"]
    kinds = [given[i % len(given)] for i in range(layers)]
    if not set(kinds) <= _LIGHTNING | _SOFTMAX:
        raise config.bad("mixer_types", "minicpm4 or lightning-attn for each layer")
    if config.flag("attention_bias", False):
        raise config.bad("attention_bias", "false")
    made: Attention = gqa_attention(heads)
    if config.flag("attn_use_output_gate", False):
        made = with_gate(made, heads, name="self_attn.o_gate")
    lightning = _sala_lightning(config, heads.hidden)
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: lightning if kinds[i] in _LIGHTNING else made, lambda _: mlp)


#: Names of MiniCPM-SALA's mixers.
_LIGHTNING = {"lightning", "lightning_attn", "lightning-attn"}
_SOFTMAX = {"minicpm4", "minicpm", "standard", "attention", "attn"}


def _sala_lightning(config: Fields, hidden: int) -> LinearAttention:
    base = heads_of(config)
    count = config.size("lightning_nh", default=base.num)
    if config.size("lightning_nkv", default=base.kv) != count:
        raise config.bad("lightning_nkv", f"{count}, as many as lightning_nh")
    dim = config.size("lightning_head_dim", default=base.dim)
    at, inner = "self_attn", count * dim
    gate = config.flag("use_output_gate", False)
    tensors = (
        *(t for name in ("q_proj", "k_proj", "v_proj")
          for t in linear(f"{at}.{name}", inner, hidden, "attention", "rows", "qkv_proj",
                          units=count)),
        *(linear(f"{at}.z_proj", inner, hidden, "attention", "rows", "output_gate", units=count)
          if gate else ()),
        *(norm(f"{at}.o_norm", inner, cut="rows") if config.flag("use_output_norm", False) else ()),
        *(norms(dim, f"{at}.q_norm", f"{at}.k_norm") if config.flag("qk_norm", True) else ()),
        *linear(f"{at}.o_proj", hidden, inner, "attention", "cols", "out_proj", units=count),
    )  # fmt: skip
    state = Cache("linear_state", float(count * dim**2), count, per_sequence=True, dtype="fp32")
    return LinearAttention("lightning", count, count, dim, dim, 0, tensors, (state,))
