"""GLM 4 to 5, ChatGLM."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
    heads_of,
    mla,
    with_indexer,
)
from shardwise.architecture.reading.common import (
    FULL,
    LINEAR,
    decoder,
    layer_types,
    num_layers,
)
from shardwise.architecture.reading.decoder import PRE_NORMS, Decoder, Layer, norms
from shardwise.architecture.reading.families.deepseek import deepseek_moe, with_mtp
from shardwise.architecture.reading.families.deepseek_v4 import hyper_connection
from shardwise.architecture.reading.mlps import FUSED, MlpNames, gated_mlp
from shardwise.architecture.reading.states import DeltaShape, kimi_delta_attention


def glm(config: Fields) -> Decoder:
    """GLM-4-9B in transformers' form."""
    return _glm(config, ())


def glm4(config: Fields) -> Decoder:
    """GLM-4-0414: norms after attention and MLP too."""
    return _glm(config, ("post_self_attn_layernorm", "post_mlp_layernorm"))


def _glm(config: Fields, extra: tuple[str, ...]) -> Decoder:
    heads = heads_of(config, dim_default=128)
    bias = config.flag("attention_bias", True)
    attention = gqa_attention(heads, Projections(bias=bias))
    mlp = gated_mlp(heads.hidden, config.size("intermediate_size"), names=FUSED)
    layer_norms = norms(heads.hidden, *PRE_NORMS, *extra)
    return decoder(config, lambda _: attention, lambda _: mlp, layer_norms=layer_norms)


def glm4_moe(config: Fields) -> Decoder:
    """GLM-4.5 and later: GQA, with DeepSeek's experts and a draft layer."""
    heads = heads_of(config)
    projections = Projections(bias=config.flag("attention_bias", False))
    qk_norm = QkNorm() if config.flag("use_qk_norm", False) else None
    attention = gqa_attention(heads, projections, qk_norm=qk_norm)
    read = decoder(
        config, lambda _: attention, deepseek_moe(config, correction_bias=True, dense_layers=1)
    )
    return with_mtp(config, read)


def glm4_moe_lite(config: Fields) -> Decoder:
    """GLM-4.7 Flash: MLA, with DeepSeek's experts and a draft layer."""
    attention = mla(config, bias=config.flag("attention_bias", False))
    read = decoder(
        config, lambda _: attention, deepseek_moe(config, correction_bias=True, dense_layers=1)
    )
    return with_mtp(config, read)


def glm_moe_dsa(config: Fields) -> Decoder:
    """GLM-5: MLA with DeepSeek's indexer. Later versions share indexers between layers."""
    choosing = choosing_layers(config, num_layers(config))
    own = mla(config, bias=config.flag("attention_bias", False))
    full = with_indexer(own, config)
    # a layer that uses the selection of an earlier one has no indexer tensors and no keys
    shared = replace(own, indexer=full.indexer)
    read = decoder(
        config,
        lambda i: full if choosing[i] else shared,
        deepseek_moe(config, correction_bias=True),
    )
    drafted = with_mtp(config, read)
    return replace(
        drafted,
        drafts=tuple(Layer(full, d.feed_forward, d.norms) for d in drafted.drafts),
    )


def glm5_next(config: Fields) -> Decoder:
    """GLM-5.3-Flash: three layers of delta attention, then one of indexed MLA without positions."""
    layers, hidden = num_layers(config), config.size("hidden_size")
    options = config.object("linear_attn_config")
    shape = DeltaShape(
        options.size("num_heads", default=config.size("linear_num_heads", default=64)),
        options.size("head_dim", default=config.size("linear_head_dim", default=128)),
        options.size(
            "short_conv_kernel_size", default=config.size("linear_conv_kernel_dim", default=4)
        ),
    )
    delta = kimi_delta_attention(hidden, shape)
    plain = mla(config, bias=config.flag("attention_bias", False))
    full = with_indexer(plain, config, pool=config.size("index_kpool", default=16))
    shared = replace(plain, indexer=full.indexer)
    attending = _indexed(config, layers)
    choosing = choosing_layers(config, layers)
    streams = hyper_connection(config, "attn_hc") + hyper_connection(config, "ffn_hc")
    experts = deepseek_moe(config, correction_bias=True, dense_layers=3)
    read = decoder(
        config,
        lambda i: (full if choosing[i] else shared) if attending[i] else delta,
        experts,
        layer_norms=norms(hidden, *PRE_NORMS) + streams,
    )
    drafted = with_mtp(config, read)
    drafts = tuple(replace(draft, mixer=full) for draft in drafted.drafts)
    return replace(drafted, drafts=drafts)


def _indexed(config: Fields, layers: int) -> list[bool]:
    """Layers with MLA."""
    kinds = layer_types(
        config, layers, LINEAR, FULL, "indexed_attention", "deepseek_sparse_attention"
    )
    if kinds:
        return [kind != LINEAR for kind in kinds]
    full = config.object("linear_attn_config").items("full_attn_layers", int)
    if full:
        return [i in full for i in range(layers)]
    return [i % 4 == 3 for i in range(layers)]


def choosing_layers(config: Fields, layers: int) -> list[bool]:
    """Return the layers with their own indexer."""
    kinds = config.items("indexer_types", str)
    if kinds:
        if len(kinds) != layers or not set(kinds) <= {"full", "shared"}:
            raise config.bad("indexer_types", f"{layers} times full or shared")
        return [kind == "full" for kind in kinds]
    every = config.size("index_topk_freq", default=1)
    offset = config.size("index_skip_topk_offset", default=2, lo=0)
    return [max(i - offset + 1, 0) % every == 0 for i in range(layers)]


def chatglm(config: Fields) -> Decoder:
    """ChatGLM 2 and 3, and the original GLM-4-9B."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    grouped = config.flag("multi_query_attention", False)
    kv = config.size("multi_query_group_num", default=1) if grouped else count
    heads = Heads(hidden, count, kv, config.size("kv_channels", default=hidden // count))
    bias = config.flag("add_bias_linear", False)
    projections = replace(
        fused("query_key_value", "dense", at="self_attention", bias=bias),
        bias=bias or config.flag("add_qkv_bias", False),
    )
    names = MlpNames("dense_h_to_4h", "dense_h_to_4h", "dense_4h_to_h")
    attention = gqa_attention(heads, projections)
    mlp = gated_mlp(hidden, config.size("ffn_hidden_size"), names=names, bias=bias)
    layer = Layer(attention, mlp, norms(hidden, *PRE_NORMS))
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size(config.name_of("padded_vocab_size", "vocab_size")),
        max_context=config.size("seq_length"),
        layers=(layer,) * num_layers(config, "num_layers"),
        outer=norms(hidden, "transformer.encoder.final_layernorm"),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="transformer.encoder.layers",
        embedding="transformer.embedding.word_embeddings",
    )
