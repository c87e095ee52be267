"""Sliding and full attention in turn, with gates, sinks or norms of their own: Spark 2.5, IQuest
Q1, Baichuan-M1, Dory.

Shapes: sglang/srt/models/spark2_5.py and iquest_q1.py, vllm/model_executor/models/dory.py,
mlx-lm 0.32, baichuan_m1.py.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import Mlp, NoFeedForward
from shardwise.architecture.fields import MAX_LAYERS, Fields
from shardwise.architecture.mixers import Attention, NoMixer
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    with_gate,
)
from shardwise.architecture.reading.common import (
    FULL,
    SLIDING,
    decoder,
    layer_types,
    max_context,
    num_layers,
    windows,
)
from shardwise.architecture.reading.decoder import Decoder, Layer, linear
from shardwise.architecture.reading.decoder import norms as norms_of
from shardwise.architecture.reading.families.gated import reused
from shardwise.architecture.reading.mlps import Experts, experts_of, gated_mlp, moe
from shardwise.architecture.tensor import Tensor


def spark2_5(config: Fields) -> Decoder:
    """Spark 2.5: one gate per head; three layers of four slide."""
    heads = heads_of(config, dim_default=256)
    config = config.with_defaults(sliding_window=512)
    slides = windows(config, num_layers(config), lambda i: (i + 1) % 4 != 0)
    projections = Projections("self_attn", *("q_k_v_proj",) * 3, "out_proj")
    gated = config.flag("headwise_attn_output_gate", True)

    @cache
    def attention(window: int) -> Attention:
        made = gqa_attention(heads, projections, window=window)
        return with_gate(made, heads, name="self_attn.g_proj", per_head=True) if gated else made

    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda i: attention(slides[i]), lambda _: mlp)


def iquest_q1(config: Fields) -> Decoder:
    """IQuest Q1: experts except in mlp_only_layers, four norms, a learned key of the sink."""
    if config.get("use_over_encoding"):
        raise config.bad("use_over_encoding", "absent or false")
    heads, layers = heads_of(config, dim_default=128), num_layers(config)
    kinds = _block_types(config, layers)
    window = config.size("sliding_window", default=4096, lo=0)
    sinks = config.flag("enable_sink_attention", True)
    sink = Tensor("self_attn.sink_k", heads.kv * heads.dim, 1, "attention", "rows", heads.kv)

    @cache
    def attention(kind: str) -> Attention:
        made = gqa_attention(heads, qk_norm=QkNorm(), window=window if kind == SLIDING else 0)
        return replace(made, tensors=(*made.tensors, sink)) if sinks else made

    count, top_k = experts_of(config, "num_experts")
    sparse = moe(heads.hidden, Experts(count, top_k, config.size("intermediate_size")))
    alone = config.items("mlp_only_layers", int) if config.has("mlp_only_layers") else [0]
    dense = gated_mlp(heads.hidden, config.size("dense_intermediate_size", default=12288))
    beside = ("attention_norm", "attn_out_norm", "feed_forward_norm", "ffn_out_norm")
    return decoder(
        config,
        lambda i: attention(kinds[i]),
        lambda i: dense if i in alone else sparse,
        layer_norms=norms_of(heads.hidden, *beside),
    )


def _block_types(config: Fields, layers: int) -> list[str]:
    """Layer types as first layers, a block that repeats, and last layers."""
    if not (config.flag("use_hybrid_layers", True) and config.flag("use_sliding_window", True)):
        return [FULL] * layers
    block = config.items("hybrid_layers_types_block", str) or [FULL, *[SLIDING] * 3]
    first = config.items("first_layers_types", str) or [FULL]
    last = config.items("last_layers_types", str) or [FULL] * 3
    kinds = first + block * config.size("num_hybrid_layers_block", default=21, hi=layers) + last
    if len(kinds) != layers or not set(kinds) <= {FULL, SLIDING}:
        raise config.bad("num_hybrid_layers_block", f"blocks that add up to {layers} layers")
    return kinds


def baichuan_m1(config: Fields) -> Decoder:
    """Baichuan-M1: keys and values are mixed with those of the previous token; sliding layers have
    heads of their own."""
    hidden = config.size("hidden_size")
    if config.size("conv_window", default=2) != 2:
        raise config.bad("conv_window", "2")
    local = set(config.items("sliding_window_layers", int))
    full = heads_of(config)
    num = config.size("num_swa_attention_heads", default=full.num)
    kv = config.size("num_swa_key_value_heads", default=full.kv)
    if hidden % num or num % kv:
        raise config.bad("num_swa_attention_heads", f"a divisor of {hidden}, by KV heads {kv}")
    sliding = Heads(hidden, num, kv, hidden // num)
    window = config.size("sliding_window", default=8192, lo=0)

    @cache
    def attention(slides: bool) -> Attention:
        heads = sliding if slides else full
        made = gqa_attention(heads, fused("W_pack"), window=window if slides else 0)
        mixing = tuple(
            Tensor(f"self_attn.conv_{name}", heads.kv, 2, "attention", "rows", heads.kv)
            for name in "kv"
        )
        previous = Cache("conv_state", 2.0 * heads.kv * heads.dim, heads.kv, per_sequence=True)
        return replace(made, tensors=made.tensors + mixing, caches=(*made.caches, previous))

    mlp = gated_mlp(hidden, config.size("intermediate_size"))
    name = config.name_of("max_position_embeddings", "model_max_length")
    return decoder(
        config, lambda i: attention(i in local), lambda _: mlp, context=max_context(config, name)
    )


def dory(config: Fields) -> Decoder:
    """Dory: blocks of attention or MLP alone with learned scales instead of norms, some of which
    run several times."""
    heads = heads_of(config, dim_default=256, kv_default=4)
    layers, window = num_layers(config), config.size("sliding_window", default=1024, lo=0)
    kinds = layer_types(config, layers, SLIDING, FULL, "mlp")
    if not kinds:
        raise config.bad("layer_types", f"{layers} times {SLIDING}, {FULL} or mlp")
    first = config.size("n_input_layers", default=0, lo=0, hi=layers)
    last = config.size("n_output_layers", default=0, lo=0, hi=layers)
    middle = config.size("n_recurrent_layers", default=layers - first - last, lo=0, hi=layers)
    if first + middle + last != layers:
        raise config.bad("n_recurrent_layers", f"parts that add up to {layers} layers")
    loops = config.size("n_recurrent_loops", default=1, hi=MAX_LAYERS // max(1, layers))
    block = cache(lambda kind: _dory_block(config, heads, kind, window))
    again = cache(lambda kind: _again(block(kind), config))
    inner = kinds[first : first + middle]
    made = [block(kind) for kind in kinds[: first + middle]]
    made += [again(kind) for _ in range(loops - 1) for kind in inner]
    made += [block(kind) for kind in kinds[first + middle :]]
    return Decoder(
        hidden_size=heads.hidden,
        vocab_size=config.size("vocab_size"),
        max_context=max_context(config),
        layers=tuple(made),
        outer=(Tensor("lm_head.logit_scale", config.size("vocab_size"), 1, "norm"),),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="backbone.layers",
        embedding="backbone.embeddings",
    )


def _dory_block(config: Fields, heads: Heads, kind: str, window: int) -> Layer:
    hidden, inner, at = heads.hidden, heads.num * heads.dim, "mixer"
    if kind == "mlp":
        width = config.size("intermediate_size")
        mlp = gated_mlp(hidden, width, at=at)
        scales = tuple(Tensor(f"{at}.{n}", width, 1, "mlp", "rows") for n in ("suv_gate", "suv_up"))
        return Layer(
            NoMixer(), Mlp(width, True, mlp.tensors + scales), norms_of(hidden, "mlp_alpha")
        )
    made = gqa_attention(heads, Projections(at), window=window if kind == SLIDING else 0)
    own = (
        *linear(f"{at}.g_proj", inner, hidden, "attention", "rows", "g_proj", units=heads.num),
        *(Tensor(f"{at}.{n}", inner, 1, "attention", "rows", heads.num) for n in ("sqk", "s_gate")),
    )
    mixer = replace(made, tensors=made.tensors + own)
    return Layer(mixer, NoFeedForward(), norms_of(hidden, "attn_alpha"))


def _again(layer: Layer, config: Fields) -> Layer:
    """A later run of a block. With "last_loop" it overwrites the cache of the run before."""
    kept = config.text("recurrent_kv_cache_mode", "per_loop")
    if kept not in ("per_loop", "last_loop"):
        raise config.bad("recurrent_kv_cache_mode", "per_loop or last_loop")
    caches = layer.mixer.caches if kept == "per_loop" else ()
    mixer = replace(layer.mixer, tensors=reused(layer.mixer.tensors), caches=caches)
    mlp = replace(layer.feed_forward, tensors=reused(layer.feed_forward.tensors))
    return Layer(mixer, mlp, reused(layer.norms))
