"""Variants of Llama: HyperCLOVA X, DiffLlama, Doge, Ettin, Molmo 2.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

import math
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward, Moe
from shardwise.architecture.fields import MAX_EXPERTS, Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    FULL,
    SLIDING,
    decoder,
    layer_types,
    num_layers,
    uniform,
    windows,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, linear, norm, norms
from shardwise.architecture.reading.mlps import (
    FUSED,
    MlpNames,
    gated_mlp,
    gated_tensors,
    plain_mlp,
)
from shardwise.architecture.tensor import Tensor


def hyperclovax(config: Fields) -> Decoder:
    """Llama with additional norms after each part, unless the file disables them."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    after = ("post_norm1", "post_norm2") if config.flag("use_post_norm", True) else ()
    return uniform(config, attention, mlp, layer_norms=norms(heads.hidden, *PRE_NORMS, *after))


def diffllama(config: Fields) -> Decoder:
    """DiffLlama: the difference of two softmaxes, weighted with four vectors."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    made = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    weights = tuple(
        Tensor(f"self_attn.lambda_{name}", heads.dim, 1, "attention")
        for name in ("q1", "k1", "q2", "k2")
    )
    attention = replace(made, tensors=made.tensors + weights)
    return uniform(config, attention, gated_mlp(heads.hidden, config.size("intermediate_size")))


def doge(config: Fields) -> Decoder:
    """Doge: attention with a learned mask, weighted residuals, single neurons as experts."""
    heads, bias = heads_of(config), config.flag("attention_bias", False)
    made = gqa_attention(heads, Projections(bias=bias, o_bias=bias), qk_norm=QkNorm())
    mask = (
        Tensor("self_attn.A", heads.kv, 1, "attention", "rows", heads.kv),
        *linear("self_attn.dt_proj", heads.kv, heads.kv * heads.dim, "attention", "replicated",
                "dt_proj", bias=bias),
    )  # fmt: skip
    attention = replace(made, tensors=made.tensors + mask)
    beside = norms(heads.hidden, *PRE_NORMS, "input_residual", "post_attention_residual")
    return uniform(config, attention, _doge_mlp(config, heads.hidden), layer_norms=beside)


def _doge_mlp(config: Fields, hidden: int) -> FeedForward:
    width, bias = config.size("intermediate_size"), config.flag("mlp_bias", False)
    if not config.flag("is_moe", False):
        config.read.update(("num_experts", "num_experts_per_tok"))
        return gated_mlp(hidden, width, bias=bias)
    count = config.size("num_experts", default=16384, hi=MAX_EXPERTS)
    top_k = config.size("num_experts_per_tok", default=64, hi=count)
    tensors = (
        *gated_tensors(hidden, width, "mlp", "shared_experts", "shared_experts.", bias=bias),
        *linear("mlp.router_gate", 2 * math.isqrt(count), hidden, "router", "replicated",
                "router"),
        *linear("mlp.down_embed", 1, hidden, "experts", "replicated", "experts.up_proj",
                copies=count),
        *linear("mlp.up_embed", hidden, 1, "experts", "replicated", "experts.down_proj",
                copies=count),
    )  # fmt: skip
    return Moe(count, top_k, 1, hidden, width, False, tensors)


def modernbert_decoder(config: Fields) -> Decoder:
    """ModernBERT as a decoder (Ettin): full attention in every third layer, a two-layer head."""
    hidden, count, layers = (
        config.size("hidden_size"),
        config.size("num_attention_heads"),
        num_layers(config),
    )
    heads, bias = Heads(hidden, count, count, hidden // count), config.flag("attention_bias", False)
    every = config.size("global_attn_every_n_layers", default=3)
    kinds = layer_types(config, layers, SLIDING, FULL) or [
        SLIDING if i % every else FULL for i in range(layers)
    ]
    local = config.size("sliding_window", default=config.size("local_attention", default=128) // 2)
    projections = Projections("attn", o="Wo", bias=bias, o_bias=bias)

    @cache
    def attention(kind: str) -> Attention:
        return gqa_attention(heads, projections, window=local if kind == SLIDING else 0)

    with_bias, mlp_bias = config.flag("norm_bias", False), config.flag("mlp_bias", False)
    mlp = gated_mlp(
        hidden, config.size("intermediate_size"), names=MlpNames("Wi", "Wi", "Wo"), bias=mlp_bias
    )
    plain = norms(hidden, "mlp_norm", bias=with_bias)
    read = decoder(
        config,
        lambda i: attention(kinds[i]),
        lambda _: mlp,
        layer_norms=lambda i: plain + norms(hidden, "attn_norm", bias=with_bias) if i else plain,
        final_norm=(
            *norms(hidden, "model.embeddings.norm", "model.final_norm", bias=with_bias),
            *linear("lm_head.dense", hidden, hidden, "mlp", "replicated", "lm_head.dense",
                    bias=config.flag("classifier_bias", False)),
            *norm("lm_head.norm", hidden, bias=with_bias),
        ),
        tie=True,
    )  # fmt: skip
    if not config.flag("decoder_bias", True):
        return replace(read, embedding="model.embeddings.tok_embeddings")
    bias_of_head = Tensor("decoder.bias", read.vocab_size, 1, "norm")
    return replace(
        read, embedding="model.embeddings.tok_embeddings", outer=(*read.outer, bias_of_head)
    )


def molmo2(config: Fields) -> Decoder:
    """Qwen3-like, with rows of the embedding for images that the head does not have."""
    heads = heads_of(config, dim_default=128)
    bias = config.flag("qkv_bias", False)
    used = config.flag("use_qk_norm", True)
    attention = gqa_attention(
        heads,
        Projections(bias=bias),
        qk_norm=_molmo_norm(config, heads) if used else None,
    )
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=FUSED)
    read = uniform(config, attention, mlp)
    return replace(
        read, extra_embedding_rows=config.size("additional_vocab_size", default=128, lo=0)
    )


def _molmo_norm(config: Fields, heads: Heads) -> QkNorm:
    kind = config.text("qk_norm_type", "olmo")
    return QkNorm(over_all=kind != "qwen3" and heads.num > 0)


def voxtral_realtime(config: Fields) -> Decoder:
    """Mistral with a small network per layer, whose input is the audio delay."""
    heads = heads_of(config, dim_default=128)
    slides = windows(config, num_layers(config), lambda _: True)
    bias = config.flag("attention_bias", False)
    projections = Projections(bias=bias, o_bias=bias)
    attention = cache(lambda window: gqa_attention(heads, projections, window=window))
    mlp = gated_mlp(
        heads.hidden, config.size("intermediate_size"), bias=config.flag("mlp_bias", False)
    )
    narrow = 32  # VoxtralRealtimeTextAdaRmsNorm
    beside = (
        *norms(heads.hidden, *PRE_NORMS),
        *linear("ada_rms_norm.linear1", narrow, heads.hidden, "norm", "replicated", "ada_norm"),
        *linear("ada_rms_norm.linear2", heads.hidden, narrow, "norm", "replicated", "ada_norm_up"),
    )
    return decoder(
        config, lambda i: attention(slides[i]), lambda _: mlp, layer_norms=beside, tie=True
    )


def cosmos3_edge(config: Fields) -> Decoder:
    """A plain MLP of two layers, no biases."""
    heads = heads_of(config, dim_default=128)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = plain_mlp(
        heads.hidden,
        config.size("intermediate_size"),
        names=("fc1", "fc2"),
        bias=config.flag("mlp_bias", False),
    )
    return uniform(config, attention, mlp)


def openelm(config: Fields) -> Decoder:
    """OpenELM (arXiv:2404.14619): each layer has its own number of heads and width."""
    hidden, dim = config.size("model_dim"), config.size("head_dim")
    layers = num_layers(config, "num_transformer_layers")
    queries = config.per_layer("num_query_heads", layers)
    keys = config.per_layer("num_kv_heads", layers)
    widths = _openelm_widths(config, hidden, layers)
    if not config.flag("ffn_with_glu", True):
        raise config.bad("ffn_with_glu", "true")
    qk_norm = QkNorm() if config.flag("normalize_qk_projections", True) else None
    names = Projections("attn", *("qkv_proj",) * 3, "out_proj")
    mlp_names = MlpNames("proj_1", "proj_1", "proj_2")
    made = []
    for query, key, width in zip(queries, keys, widths, strict=True):
        if not key or query % key:
            raise config.bad("num_kv_heads", "divisors of num_query_heads")
        attention = gqa_attention(Heads(hidden, query, key, dim), names, qk_norm=qk_norm)
        mlp = gated_mlp(hidden, width, at="ffn", names=mlp_names)
        made.append(Layer(attention, mlp, norms(hidden, "ffn_norm", "attn_norm")))
    longest = config.name_of("max_context_length", "max_position_embeddings")
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size(longest, default=2048),
        layers=tuple(made),
        outer=norms(hidden, "transformer.norm"),
        tie_embeddings=config.flag("share_input_output_layers", True),
        prefix="transformer.layers",
        embedding="transformer.token_embeddings",
    )


def _openelm_widths(config: Fields, hidden: int, layers: int) -> list[int]:
    """MLP widths, rounded to the divisor but not by more than a tenth down."""
    step = config.size("ffn_dim_divisor", default=256)
    factors = config.get("ffn_multipliers")
    if (
        not isinstance(factors, list)
        or len(factors) != layers
        or any(isinstance(f, bool) or not isinstance(f, int | float) or not 0 < f < 100
               for f in factors)
    ):  # fmt: skip
        raise config.bad("ffn_multipliers", f"{layers} numbers above 0")
    exact = [factor * hidden for factor in factors]
    rounded = [max(step, int(size + step / 2) // step * step) for size in exact]
    return [r + step if r < 0.9 * e else r for r, e in zip(rounded, exact, strict=True)]
