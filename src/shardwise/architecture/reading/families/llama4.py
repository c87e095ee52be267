"""Llama 4 and the Llama 3.2 vision models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import (
    CHUNKED,
    FULL,
    decoder,
    layer_types,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, norms
from shardwise.architecture.reading.mlps import (
    FUSED,
    Experts,
    Router,
    Shared,
    experts_of,
    gated_mlp,
    moe,
)
from shardwise.architecture.tensor import Tensor


def llama4(config: Fields) -> Decoder:
    """Llama 4: three layers of chunked attention, then a full one; experts in every n-th layer."""
    heads, layers = heads_of(config, dim_default=128, kv_default=8), num_layers(config)
    bias = config.flag("attention_bias", False)
    chunk = config.size("attention_chunk_size", default=8192, lo=0)
    chunked = _chunked(config, layers)

    @cache
    def attention(size: int) -> Attention:
        made = gqa_attention(heads, Projections(bias=bias, o_bias=bias), chunk=size)
        # vLLM stores only the current chunk, as for a window (all tokens if its
        # VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE is off, the default before 2026)
        kept = tuple(replace(entry, window=size) for entry in made.caches)
        return replace(made, caches=kept)

    sparse_layers = _sparse_layers(config, layers)
    feed_forward = _feed_forwards(config)
    return decoder(
        config,
        lambda i: attention(chunk if chunked[i] else 0),
        lambda i: feed_forward(i in sparse_layers),
    )


def _chunked(config: Fields, layers: int) -> list[bool]:
    kinds = layer_types(config, layers, CHUNKED, FULL)
    if kinds:
        return [kind == CHUNKED for kind in kinds]
    rope = config.items("no_rope_layers", int)
    interval = config.size(
        config.name_of("no_rope_layer_interval", "nope_layer_interval"), default=4
    )
    # layers without positional encoding have full attention
    return [bool(r) for r in rope] or [(i + 1) % interval != 0 for i in range(layers)]


def _sparse_layers(config: Fields, layers: int) -> frozenset[int]:
    named = config.items("moe_layers", int)
    step = config.size("interleave_moe_layer_step", default=1)
    return frozenset(named or range(step - 1, layers, step))


def _feed_forwards(config: Fields) -> Callable[[bool], FeedForward]:
    hidden, width = config.size("hidden_size"), config.size("intermediate_size", default=8192)
    dense_width = config.size("intermediate_size_mlp", default=16384)
    count, top_k = experts_of(config, "num_local_experts")

    @cache
    def feed_forward(sparse: bool) -> FeedForward:
        if not sparse:
            return gated_mlp(hidden, dense_width, at="feed_forward")
        return moe(
            hidden,
            Experts(count, top_k, width, FUSED),
            router=Router("router"),
            shared=Shared(width, "shared_expert"),
            at="feed_forward",
        )

    return feed_forward


def mllama(config: Fields) -> Decoder:
    """Llama 3.2 Vision: some layers attend to the image instead of the text."""
    heads = heads_of(config)
    crossing = frozenset(config.items("cross_attention_layers", int))
    own = gqa_attention(heads)
    crossed = gqa_attention(heads, Projections(at="cross_attn"), qk_norm=QkNorm())
    # keys and values of the image: once per sequence, at most 4 tiles of 1,601 patches
    images = Cache("cross_kv", crossed.caches[0].elements * 4 * 1601, heads.kv, per_sequence=True)
    crossed = replace(crossed, caches=(images,))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"))
    gates = tuple(Tensor(n, 1, 1, "norm") for n in ("cross_attn_attn_gate", "cross_attn_mlp_gate"))
    plain = norms(heads.hidden, *PRE_NORMS)
    read = decoder(
        config,
        lambda i: crossed if i in crossing else own,
        lambda _: mlp,
        layer_norms=lambda i: plain + gates if i in crossing else plain,
    )
    # eight rows for image tokens, which the head does not have
    return replace(read, extra_embedding_rows=8)
