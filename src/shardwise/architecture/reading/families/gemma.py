"""Gemma 1 to 4."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.feed_forward import FeedForward, Moe
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Mixer
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
    overrides,
    windows,
)
from shardwise.architecture.reading.decoder import Decoder, linear, norm, norms
from shardwise.architecture.reading.mlps import (
    Experts,
    Router,
    experts_of,
    gated_mlp,
    gated_tensors,
    moe,
)
from shardwise.architecture.tensor import Tensor

_FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def gemma(config: Fields) -> Decoder:
    """Gemma: heads of 256 and tied embeddings."""
    heads = heads_of(config, dim_default=256)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(heads, Projections(bias=bias, o_bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda _: attention, lambda _: mlp, tie=True)


def gemma2(config: Fields) -> Decoder:
    """Gemma 2: a sliding window in every other layer; norms before and after each part."""
    return _sliding(config, None, lambda i: i % 2 == 0)


def gemma3(config: Fields) -> Decoder:
    """Gemma 3: QK norms; five of six layers have a sliding window."""
    pattern = config.size("sliding_window_pattern", default=6)
    return _sliding(config, QkNorm(), lambda i: (i + 1) % pattern != 0)


def _sliding(config: Fields, qk_norm: QkNorm | None, slides: Callable[[int], bool]) -> Decoder:
    heads = _heads(config)
    bias = config.flag("attention_bias", False)
    projections = Projections(bias=bias, o_bias=bias)
    window = windows(config, num_layers(config), slides)
    attention = cache(lambda size: gqa_attention(heads, projections, qk_norm=qk_norm, window=size))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    sized = config.with_defaults(vocab_size=262208 if qk_norm else 256000)
    return decoder(
        sized,
        lambda i: attention(window[i]),
        lambda _: mlp,
        layer_norms=norms(heads.hidden, *_FOUR_NORMS),
        tie=True,
        context=config.size("max_position_embeddings", default=131072),
    )


def _with(config: Fields, **values: int) -> Fields:
    return Fields({**config.values, **values}, config.where, config.read)


def _heads(config: Fields) -> Heads:
    """Return the heads, by default those of transformers' Gemma3TextConfig."""
    config.read.update(("num_attention_heads", "num_key_value_heads", "head_dim"))
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads", default=8)
    kv = config.size("num_key_value_heads", default=4)
    if kv > count or count % kv:
        raise config.bad("num_key_value_heads", f"a divisor of the {count} attention heads")
    return Heads(hidden, count, kv, config.size("head_dim", default=256))


def gemma3n(config: Fields) -> Decoder:
    """Gemma 3n: per-layer embeddings, AltUp streams, low-rank residuals; late layers share KV."""
    heads, layers = _heads_3n(config), num_layers(config)
    hidden = heads.hidden
    kinds = layer_types(config, layers, SLIDING, FULL) or [
        FULL if (i + 1) % 5 == 0 else SLIDING for i in range(layers)
    ]
    window = config.size("sliding_window", default=512)
    first_shared = layers - config.size("num_kv_shared_layers", default=15, lo=0)

    @cache
    def attention(kind: str, shared: bool) -> Attention:
        return gqa_attention(
            heads,
            Projections(shared_kv=shared),
            qk_norm=QkNorm(),
            window=window if kind == SLIDING else 0,
        )

    widths = config.per_layer("intermediate_size", layers, 16384)
    mlp = cache(lambda width: gated_mlp(hidden, width))
    extra = _altup(config, hidden)
    return decoder(
        config,
        lambda i: attention(kinds[i], i >= first_shared > 0),
        lambda i: mlp(widths[i]),
        layer_norms=norms(hidden, *_FOUR_NORMS) + extra + per_layer_inputs(config, hidden, 256),
        final_norm=norms(hidden, "model.norm") + _altup_outer(config, hidden, layers),
        tie=True,
        context=config.size("max_position_embeddings", default=32768),
    )


def _heads_3n(config: Fields) -> Heads:
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads", default=8)
    kv = config.size("num_key_value_heads", default=2)
    return Heads(hidden, count, kv, config.size("head_dim", default=256))


def _altup(config: Fields, hidden: int) -> tuple[Tensor, ...]:
    """Return the tensors of a layer's AltUp streams and low-rank residual in Gemma 3n."""
    streams, rank = (
        config.size("altup_num_inputs", default=4),
        config.size("laurel_rank", default=64),
    )
    return (
        Tensor("altup.correct_output_scale", hidden, 1, "norm"),
        *linear("altup.correction_coefs", streams, streams, "mlp", "replicated", "altup"),
        *linear("altup.prediction_coefs", streams**2, streams, "mlp", "replicated", "altup"),
        *linear("altup.modality_router", streams, hidden, "mlp", "replicated", "altup"),
        *norm("altup.router_norm", hidden),
        *linear("laurel.linear_left", rank, hidden, "mlp", "replicated", "laurel_left"),
        *linear("laurel.linear_right", hidden, rank, "mlp", "replicated", "laurel_right"),
        *norm("laurel.post_laurel_norm", hidden),
    )


def per_layer_inputs(config: Fields, hidden: int, default: int) -> tuple[Tensor, ...]:
    """Return the gate and projection of a layer's own embedding."""
    size = config.size("hidden_size_per_layer_input", default=default, lo=0)
    if not size:
        return ()
    return (
        *linear("per_layer_input_gate", size, hidden, "mlp", "replicated", "per_layer_gate"),
        *linear("per_layer_projection", hidden, size, "mlp", "replicated", "per_layer_projection"),
        *norm("post_per_layer_input_norm", hidden),
    )


def per_layer_embedding(config: Fields, hidden: int, layers: int) -> tuple[Tensor, ...]:
    """Return Gemma 3n's per-layer embedding and its projections; empty if absent."""
    size = config.size("hidden_size_per_layer_input", default=256, lo=0)
    if not size:
        return ()
    vocab = config.size("vocab_size_per_layer_input", default=262144)
    return (
        Tensor("model.embed_tokens_per_layer", vocab, layers * size, "embedding", "rows"),
        *linear("model.per_layer_model_projection", layers * size, hidden, "mlp", "replicated",
                "per_layer_model_projection"),
        *norm("model.per_layer_projection_norm", size),
    )  # fmt: skip


def _altup_outer(config: Fields, hidden: int, layers: int) -> tuple[Tensor, ...]:
    streams = config.size("altup_num_inputs", default=4)
    mixing = tuple(
        tensor
        for name in ("altup_projections", "altup_unembed_projections")
        for i in range(streams - 1)
        for tensor in linear(f"model.{name}.{i}", hidden, hidden, "mlp", "replicated", name)
    )
    return per_layer_embedding(config, hidden, layers) + mixing


def gemma4(config: Fields) -> Decoder:
    """Gemma 4: full-attention layers have their own head size; keys may serve as values."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    kinds = layer_types(config, layers, SLIDING, FULL) or [
        FULL if (i + 1) % 6 == 0 else SLIDING for i in range(layers)
    ]
    kinds[-1] = FULL  # transformers forces the last layer to full attention
    first_shared = layers - config.size("num_kv_shared_layers", default=0, lo=0)
    full = overrides(config, layers)[kinds.index(FULL)]
    attention = _attention_4(config, full)
    mlp = _feed_forward_4(config)
    shares = [0 < first_shared <= i for i in range(layers)]
    extra = (
        *norms(hidden, *_FOUR_NORMS),
        Tensor("layer_scalar", 1, 1, "norm"),
        *per_layer_inputs(config, hidden, 256),
    )
    mixers: Callable[[int], Mixer] = lambda i: attention(kinds[i], shares[i])  # noqa: E731
    return decoder(
        config,
        mixers,
        lambda i: mlp(shares[i]),
        layer_norms=extra,
        final_norm=norms(hidden, "model.norm") + per_layer_embedding(config, hidden, layers),
        tie=True,
        context=config.size("max_position_embeddings", default=131072),
    )


def gemma4_unified(config: Fields) -> Decoder:
    """Gemma 4 without encoders: no embeddings for each layer, no scalars."""
    own = {"hidden_size_per_layer_input": 0}
    read = gemma4(
        Fields({"sliding_window": 1024, **config.values, **own}, config.where, config.read)
    )
    plain = tuple(
        replace(layer, norms=tuple(t for t in layer.norms if t.name != "layer_scalar"))
        for layer in read.layers
    )
    return replace(read, layers=plain)


def _attention_4(config: Fields, full_layer: Fields) -> Callable[[str, bool], Attention]:
    """`full_layer`: fields of the file that apply only to full-attention layers."""
    own = _heads(config)
    window = config.size("sliding_window", default=512)
    k_eq_v = config.flag("attention_k_eq_v", False)
    kv = config.size("num_global_key_value_heads", default=own.kv) if k_eq_v else own.kv
    config.has("num_global_key_value_heads")
    wide = replace(
        own,
        kv=full_layer.size("num_key_value_heads", default=kv),
        dim=full_layer.size("head_dim", default=config.size("global_head_dim", default=512)),
    )
    bias = config.flag("attention_bias", False)

    @cache
    def attention(kind: str, shared: bool) -> Attention:
        full = kind == FULL
        made = Projections(bias=bias, o_bias=bias, shared_kv=shared, k_is_v=full and k_eq_v)
        heads = wide if full else own
        return gqa_attention(heads, made, qk_norm=QkNorm(), window=0 if full else window)

    return attention


def _feed_forward_4(config: Fields) -> Callable[[bool], FeedForward]:
    """A dense MLP. In MoE models it is parallel to the experts and counts as a shared expert."""
    hidden = config.size("hidden_size")
    width = config.size("intermediate_size", default=9216)
    double = config.flag("use_double_wide_mlp", False)
    if not config.flag("enable_moe_block", False):
        config.read.update(("num_experts", "top_k_experts", "moe_intermediate_size"))
        return cache(lambda shared: gated_mlp(hidden, width * (2 if double and shared else 1)))
    experts, top_k = experts_of(config, "num_experts", "top_k_experts")
    names = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2",
             "pre_feedforward_layernorm_2")  # fmt: skip
    extra = (
        *gated_tensors(hidden, width, "mlp", "shared_experts", "shared_experts."),
        *norms(hidden, *names),
        Tensor("router.scale", hidden, 1, "router"),
        Tensor("router.per_expert_scale", experts, 1, "router"),
    )
    sparse: Moe = moe(
        hidden,
        Experts(experts, top_k, config.size("moe_intermediate_size"), at="experts"),
        router=Router("router.proj"),
        at="",
        extra=extra,
    )
    combined = replace(sparse, shared_width=width)
    return lambda _: combined
