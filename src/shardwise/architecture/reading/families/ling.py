"""Ling and Ring with lightning attention: linear 2.0 and 2.5.

Shapes: vllm/model_executor/models/bailing_moe_linear.py; mlx-lm 0.32, bailing_moe_linear.py.
"""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import LinearAttention, Mixer
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
    mla,
)
from shardwise.architecture.reading.common import decoder, num_layers
from shardwise.architecture.reading.decoder import Decoder, linear, norm
from shardwise.architecture.reading.families.deepseek import with_mtp
from shardwise.architecture.reading.families.deepseek_like import bailing_experts


def ring_linear(config: Fields) -> Decoder:
    """Ring-linear 2.0: lightning attention, and GQA in the last layer of each group."""
    heads, bias = heads_of(config), config.flag("use_bias", False)
    projections = Projections(
        "attention", *("query_key_value",) * 3, "dense", config.flag("use_qkv_bias", False), bias
    )
    qk_norm = QkNorm(q="query_layernorm", k="key_layernorm")
    used = config.flag("use_qk_norm", False)
    attention = gqa_attention(heads, projections, qk_norm=qk_norm if used else None)
    width = heads.hidden // heads.num
    return _grouped(config, attention, replace(heads, kv=heads.num, dim=width), qk_norm=used)


def ling_2_5(config: Fields) -> Decoder:
    """Ling 2.5: lightning attention, and MLA in the last layer of each group."""
    config = config.with_defaults(q_lora_rank=None)
    heads = heads_of(config)
    lightning = replace(heads, kv=heads.num)
    used = config.flag("use_qk_norm", True)
    return _grouped(config, mla(config, at="attention"), lightning, qk_norm=used)


def _grouped(config: Fields, full: Mixer, heads: Heads, *, qk_norm: bool) -> Decoder:
    layers, group = num_layers(config), config.size("layer_group_size")
    lightning = _lightning(config, heads, qk_norm=qk_norm)
    whole = layers // group * group  # the layers behind the last whole group are full too
    mixers: list[Mixer] = [
        full if (i + 1) % group == 0 or i >= whole else lightning for i in range(layers)
    ]
    read = decoder(config, lambda i: mixers[i], bailing_experts(config))
    drafted = with_mtp(config, replace(read, embedding="model.word_embeddings"))
    drafts = tuple(replace(draft, mixer=full) for draft in drafted.drafts)
    return replace(drafted, drafts=drafts)


def _lightning(config: Fields, heads: Heads, *, qk_norm: bool) -> LinearAttention:
    """As many key heads as queries; a norm over groups and a gate of the output."""
    hidden, inner, at = heads.hidden, heads.num * heads.dim, "attention"
    bias, qkv_bias = config.flag("use_bias", False), config.flag("use_qkv_bias", False)
    named = ("query_layernorm", "key_layernorm") if qk_norm else ()
    tensors = (
        *linear(f"{at}.query_key_value", 3 * inner, hidden, "attention", "rows", "qkv_proj",
                units=heads.num, bias=qkv_bias),
        *linear(f"{at}.g_proj", inner, hidden, "attention", "rows", "output_gate",
                units=heads.num),
        *norm(f"{at}.g_norm", inner, cut="rows"),
        *(tensor for name in named for tensor in norm(f"{at}.{name}", heads.dim)),
        *linear(f"{at}.dense", hidden, inner, "attention", "cols", "out_proj", units=heads.num,
                bias=bias),
    )  # fmt: skip
    size = float(heads.num * heads.dim**2)
    state = Cache("linear_state", size, heads.num, per_sequence=True, dtype="fp32")
    return LinearAttention(
        "lightning", heads.num, heads.num, heads.dim, heads.dim, 0, tensors, (state,)
    )
