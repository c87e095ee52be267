"""Qwen4-Exp: gated delta nets and indexed attention between several streams, n-gram embeddings.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Indexer, LinearAttention
from shardwise.architecture.reading.attention import (
    Projections,
    QkNorm,
    gqa_attention,
    heads_of,
)
from shardwise.architecture.reading.common import FULL, LINEAR, decoder, layer_types, num_layers
from shardwise.architecture.reading.decoder import Decoder, linear, norm, norms
from shardwise.architecture.reading.families.llama import qwen_moe
from shardwise.architecture.reading.states import gated_delta_net
from shardwise.architecture.tensor import Tensor

_INDEXED = "indexed_attention"


def qwen4_exp(config: Fields) -> Decoder:
    """Three layers of a gated delta net, then one of indexed attention; experts in all layers."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    every = config.size("full_attention_interval", default=4)
    kinds = layer_types(config, layers, LINEAR, FULL, _INDEXED) or [
        LINEAR if (i + 1) % every else _INDEXED for i in range(layers)
    ]
    attention = _indexed(config)
    delta = gated_delta_net(config, split=True)
    looked_up = frozenset(number - 1 for number in config.items("ple_layer_ids", int))
    if not all(0 <= i < layers and kinds[i] == LINEAR for i in looked_up):
        raise config.bad("ple_layer_ids", "numbers of linear_attention layers, counted from 1")
    with_words = replace(delta, caches=delta.caches + _word_states(config)) if looked_up else delta
    streams = _streams(config, "attn_hyper_connection") + _streams(config, "mlp_hyper_connection")
    words = _words(config, hidden) if looked_up else ()

    def mixer(i: int) -> Attention | LinearAttention:
        if kinds[i] != LINEAR:
            return attention
        return with_words if i in looked_up else delta

    shared = config.size("shared_expert_intermediate_size", default=512, lo=0)
    read = decoder(
        config,
        mixer,
        qwen_moe(config, shared),
        layer_norms=lambda i: streams + words if i in looked_up else streams,
        final_norm=_streams(config, "model.hyper_connection_mixer", inject=False),
    )
    tables = tuple(
        Tensor(f"model.layers.{i}.ple.ple_embedding.ngram_embedding", *_ngrams(config, hidden),
               "embedding", "rows")
        for i in sorted(looked_up)
    )  # fmt: skip
    return replace(read, outer=read.outer + tables)


def _indexed(config: Fields) -> Attention:
    """Gated attention to blocks of tokens selected by an indexer."""
    heads = heads_of(config, dim_default=256, kv_default=2)
    bias = config.flag("attention_bias", False)
    made = gqa_attention(heads, Projections(bias=bias, o_bias=bias, gated=True), qk_norm=QkNorm())
    if not config.has("indexer_n_heads"):
        return made
    count, dim = config.size("indexer_n_heads"), config.size("indexer_head_dim")
    keys, ratio = config.size("indexer_kv_heads"), config.size("indexer_compress_ratio")
    at = "self_attn.indexer"
    tensors = (
        *linear(f"{at}.index_qk_proj", (count + keys) * dim, heads.hidden, "attention",
                "replicated", "indexer.wk"),
        *norm(f"{at}.q_layernorm", dim),
        *norm(f"{at}.k_layernorm", dim),
    )  # fmt: skip
    key = Cache("indexer", float(keys * dim), stride=ratio)
    return replace(
        made,
        tensors=made.tensors + tensors,
        caches=(*made.caches, key),
        indexer=Indexer(count, dim, config.size("indexer_budget")),
    )


def _streams(config: Fields, name: str, *, inject: bool = True) -> tuple[Tensor, ...]:
    """Tensors that mix `hc_count` residual streams before a part and distribute its output."""
    count, hidden = config.size("hc_count", default=4), config.size("hidden_size")
    rank, wide = config.size("hc_lowrank", default=320), count * hidden
    gemm = "hyper_connection"
    tensors = (
        *norm(f"{name}.hc_norm", wide),
        *linear(f"{name}.input_mix_weight_down", rank, wide, "norm", "replicated", gemm),
        *linear(f"{name}.input_mix_weight_up", wide, rank, "norm", "replicated", f"{gemm}_up"),
    )
    if inject:
        tensors += linear(f"{name}.block_inject_weight", count, wide, "norm", "replicated", gemm)
    return tensors


def _words(config: Fields, hidden: int) -> tuple[Tensor, ...]:
    """Tensors that add n-gram embeddings to the streams of a layer."""
    size = config.size("ple_embed_dim", default=hidden)
    wide = config.size("hc_count", default=4) * hidden
    kernel = config.size("ple_conv_kernel_size", default=4)
    return (
        *linear("ple.key_proj", wide, size, "mlp", "replicated", "ple_proj"),
        *linear("ple.value_proj", hidden, size, "mlp", "replicated", "ple_proj"),
        *norms(wide, "ple.norm_key", "ple.norm_query", "ple.norm_conv"),
        Tensor("ple.conv1d", wide, kernel, "mlp"),
    )


def _word_states(config: Fields) -> tuple[Cache, ...]:
    """The dilated convolution's last inputs."""
    wide = config.size("hc_count", default=4) * config.size("hidden_size")
    kept = (config.size("ple_conv_kernel_size", default=4) - 1) * config.size(
        "ngram_size", default=3
    )
    return (Cache("conv_state", float(kept * wide), per_sequence=True),)


def _ngrams(config: Fields, hidden: int) -> tuple[int, int]:
    """Rows and columns of a layer's table.

    The rows of each head are the next prime above ngram_vocab_size_base, a few in a million more.
    """
    size = config.size("ple_embed_dim", default=hidden)
    heads = (config.size("ngram_size", default=3) - 1) * config.size("heads_per_ngram", default=8)
    base = config.size("ngram_vocab_size_base", default=20_000_000)
    step = config.size("make_ngram_vocab_size_divisible_by", default=128)
    if heads < 1 or size % heads:
        raise config.bad("ple_embed_dim", f"a multiple of the {heads} n-gram heads")
    return -(-heads * base // step) * step, size // heads
