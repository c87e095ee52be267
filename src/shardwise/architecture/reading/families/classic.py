"""Families derived from GPT-2: plain MLPs, biases, norms with biases, learned positions."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.attention import (
    Heads,
    Projections,
    QkNorm,
    fused,
    gqa_attention,
)
from shardwise.architecture.reading.common import num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, norms
from shardwise.architecture.reading.mlps import MlpNames, gated_mlp, plain_mlp
from shardwise.architecture.tensor import Tensor


def _transformer(
    config: Fields,
    heads: Heads,
    layer: Layer,
    count: int,
    context: int,
    *,
    tie: bool,
    final_norm: str = "transformer.ln_f",
    bias: bool = True,
) -> Decoder:
    return Decoder(
        hidden_size=heads.hidden,
        vocab_size=config.size("vocab_size"),
        max_context=context,
        layers=(layer,) * count,
        outer=norms(heads.hidden, final_norm, bias=bias),
        tie_embeddings=config.flag("tie_word_embeddings", tie),
        prefix="transformer.h",
        embedding="transformer.wte",
    )


def _positions(read: Decoder, name: str, rows: int) -> Decoder:
    """`read` with learned positions."""
    table = Tensor(name, rows, read.hidden_size, "embedding")
    return replace(read, outer=(*read.outer, table))


def gpt2(config: Fields) -> Decoder:
    """GPT-2: fused projections, learned positions, plain MLP."""
    heads = _gpt_heads(config, grouped=False)
    return _gpt2(config, heads)


def gpt_bigcode(config: Fields) -> Decoder:
    """StarCoder: GPT-2 with MQA."""
    return _gpt2(config, _gpt_heads(config, grouped=config.flag("multi_query", True)))


def _gpt_heads(config: Fields, *, grouped: bool) -> Heads:
    hidden, count = config.size("n_embd", default=768), config.size("n_head", default=12)
    return Heads(hidden, count, 1 if grouped else count, hidden // count)


def _gpt2(config: Fields, heads: Heads) -> Decoder:
    attention = gqa_attention(heads, fused("c_attn", "c_proj", at="attn", bias=True))
    width = config.size("n_inner", default=4 * heads.hidden)
    mlp = plain_mlp(heads.hidden, width, names=("c_fc", "c_proj"), bias=True)
    layer = Layer(attention, mlp, norms(heads.hidden, "ln_1", "ln_2", bias=True))
    context = config.size(config.name_of("n_positions", "n_ctx"), default=1024)
    count = num_layers(config, "n_layer")
    read = _transformer(config, heads, layer, count, context, tie=True)
    return _positions(read, "transformer.wpe", context)


def gpt_neo(config: Fields) -> Decoder:
    """GPT-Neo: global and sliding-window layers alternate."""
    hidden, count = config.size("hidden_size"), config.size("num_heads")
    heads = Heads(hidden, count, count, hidden // count)
    window = config.size("window_size", default=256)
    projections = Projections(at="attn.attention", o="out_proj", o_bias=True)
    width = config.size("intermediate_size", default=4 * hidden)
    mlp = plain_mlp(hidden, width, names=("c_fc", "c_proj"), bias=True)
    layers, context = num_layers(config, "num_layers"), config.size("max_position_embeddings")
    beside = norms(hidden, "ln_1", "ln_2", bias=True)
    kinds = tuple(Layer(gqa_attention(heads, projections, window=w), mlp, beside)
                  for w in (0, window))  # fmt: skip
    read = _transformer(config, heads, kinds[0], 0, context, tie=True)
    read = replace(read, layers=tuple(kinds[i % 2] for i in range(layers)))
    return _positions(read, "transformer.wpe", context)


def gptj(config: Fields) -> Decoder:
    """GPT-J and CodeGen: attention and MLP in parallel, a head with a bias."""
    config = config.with_defaults(n_embd=4096, n_head=16)
    heads = _gpt_heads(config, grouped=False)
    attention = gqa_attention(heads, Projections(at="attn", o="out_proj"))
    width = config.size("n_inner", default=4 * heads.hidden)
    mlp = plain_mlp(heads.hidden, width, names=("fc_in", "fc_out"), bias=True)
    layer = Layer(attention, mlp, norms(heads.hidden, "ln_1", bias=True))
    context = config.size("n_positions", default=2048)
    count = num_layers(config, "n_layer")
    return replace(_transformer(config, heads, layer, count, context, tie=False), lm_head_bias=True)


def gpt_neox(config: Fields) -> Decoder:
    """GPT-NeoX and Pythia: one fused QKV projection, biases throughout."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, hidden // count)
    bias = config.flag("attention_bias", True)
    attention = gqa_attention(heads, fused("query_key_value", "dense", at="attention", bias=bias))
    mlp = plain_mlp(
        hidden,
        config.size("intermediate_size"),
        names=("dense_h_to_4h", "dense_4h_to_h"),
        bias=True,
    )
    beside = norms(hidden, "input_layernorm", "post_attention_layernorm", bias=True)
    context = config.size("max_position_embeddings")
    layer, layers = Layer(attention, mlp, beside), num_layers(config)
    read = _transformer(
        config, heads, layer, layers, context, tie=False, final_norm="gpt_neox.final_layer_norm"
    )
    return replace(read, prefix="gpt_neox.layers", embedding="gpt_neox.embed_in", head="embed_out")


def persimmon(config: Fields) -> Decoder:
    """Persimmon: fused QKV, and norms of queries and keys."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, hidden // count)
    qk_norm = QkNorm(bias=True, q="q_layernorm", k="k_layernorm")
    attention = gqa_attention(
        heads,
        fused("query_key_value", "dense", bias=True),
        qk_norm=qk_norm if config.flag("qk_layernorm", True) else None,
    )
    width = config.size("intermediate_size")
    mlp = plain_mlp(hidden, width, names=("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    beside = norms(hidden, "input_layernorm", "post_attention_layernorm", bias=True)
    context = config.size("max_position_embeddings")
    layer, layers = Layer(attention, mlp, beside), num_layers(config)
    return _transformer(
        config, heads, layer, layers, context, tie=False, final_norm="model.final_layernorm"
    )


def bloom(config: Fields) -> Decoder:
    """BLOOM: fused QKV, ALiBi positions, a norm after the embedding."""
    hidden = config.size(config.name_of("hidden_size", "n_embed"))
    count = config.size(config.name_of("n_head", "num_attention_heads"))
    heads = Heads(hidden, count, count, hidden // count)
    attention = gqa_attention(
        heads, fused("query_key_value", "dense", at="self_attention", bias=True)
    )
    mlp = plain_mlp(hidden, 4 * hidden, names=("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    beside = norms(hidden, "input_layernorm", "post_attention_layernorm", bias=True)
    layers = num_layers(config, config.name_of("n_layer", "num_hidden_layers"))
    context = config.size("seq_length", default=2048)
    read = _transformer(config, heads, Layer(attention, mlp, beside), layers, context, tie=True)
    return replace(
        read,
        embedding="transformer.word_embeddings",
        outer=(
            *norms(hidden, "transformer.word_embeddings_layernorm", bias=True),
            *read.outer,
        ),
    )


def falcon(config: Fields) -> Decoder:
    """Falcon 7B, 40B and 180B: MQA or GQA, in parallel with the MLP."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    new = config.flag("new_decoder_architecture", False)
    multi_query = config.flag("multi_query", True)
    kv = config.size("num_kv_heads", default=count) if new else (1 if multi_query else count)
    config.has("num_kv_heads")
    heads, bias = Heads(hidden, count, kv, hidden // count), config.flag("bias", False)
    attention = gqa_attention(
        heads, fused("query_key_value", "dense", at="self_attention", bias=bias)
    )
    width = config.size("ffn_hidden_size", default=4 * hidden)
    mlp = plain_mlp(hidden, width, names=("dense_h_to_4h", "dense_4h_to_h"), bias=bias)
    parallel = config.flag("parallel_attn", True)
    if new and config.size("num_ln_in_parallel_attn", default=2) == 2:
        names: tuple[str, ...] = ("ln_attn", "ln_mlp")
    elif parallel:
        names = ("input_layernorm",)
    else:
        names = ("input_layernorm", "post_attention_layernorm")
    layer = Layer(attention, mlp, norms(hidden, *names, bias=True))
    context = config.size("max_position_embeddings", default=2048)
    read = _transformer(config, heads, layer, num_layers(config), context, tie=True)
    return replace(read, embedding="transformer.word_embeddings")


def mpt(config: Fields) -> Decoder:
    """MPT: fused QKV with multi-head, grouped or multi-query attention."""
    hidden, count = config.size("d_model"), config.size("n_heads")
    options = config.object("attn_config")
    kind = options.text("attn_type", "multihead_attention")
    kv = {"multiquery_attention": 1}.get(kind, options.size("kv_n_heads", default=count))
    heads, bias = Heads(hidden, count, kv, hidden // count), not config.flag("no_bias", True)
    qk_norm = QkNorm(over_all=True, q="q_ln", k="k_ln")
    attention = gqa_attention(
        heads,
        fused("Wqkv", "out_proj", at="attn", bias=bias),
        qk_norm=qk_norm if options.flag("qk_ln", False) else None,
    )
    width = config.size("expansion_ratio", default=4) * hidden
    mlp = plain_mlp(hidden, width, at="ffn", bias=bias)
    layer = Layer(attention, mlp, norms(hidden, "norm_1", "norm_2", bias=bias))
    context, layers = config.size("max_seq_len"), num_layers(config, "n_layers")
    read = _transformer(
        config, heads, layer, layers, context, tie=True, final_norm="transformer.norm_f", bias=bias
    )
    read = replace(read, prefix="transformer.blocks")
    if options.flag("alibi", True) or not config.flag("learned_pos_emb", True):
        return read
    return _positions(read, "transformer.wpe", context)


def opt(config: Fields) -> Decoder:
    """OPT: learned positions; the 350M projects its narrow embedding."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads, bias = Heads(hidden, count, count, hidden // count), config.flag("enable_bias", True)
    narrow = config.size("word_embed_proj_dim", default=hidden)
    if narrow != hidden:
        raise config.bad("word_embed_proj_dim", f"the hidden_size {hidden}")
    attention = gqa_attention(heads, Projections(o="out_proj", bias=bias, o_bias=bias))
    mlp = plain_mlp(hidden, config.size("ffn_dim"), at="", names=("fc1", "fc2"), bias=bias)
    layer = Layer(
        attention, mlp, norms(hidden, "self_attn_layer_norm", "final_layer_norm", bias=True)
    )
    context, layers = config.size("max_position_embeddings"), num_layers(config)
    name = "model.decoder.final_layer_norm"
    read = _transformer(config, heads, layer, layers, context, tie=True, final_norm=name)
    if not config.flag("do_layer_norm_before", True):
        read = replace(read, outer=())
    read = replace(read, prefix="model.decoder.layers", embedding="model.decoder.embed_tokens")
    return _positions(read, "model.decoder.embed_positions", context + 2)


def phi_msft(config: Fields) -> Decoder:
    """Phi 2 in its first form, with fused projections."""
    hidden, count = config.size("n_embd"), config.size("n_head")
    kv = config.size("n_head_kv", default=count)
    heads = Heads(hidden, count, kv, hidden // count)
    attention = gqa_attention(heads, fused("Wqkv", "out_proj", at="mixer", bias=True))
    width = config.size("n_inner", default=4 * hidden)
    mlp = plain_mlp(hidden, width, names=("fc1", "fc2"), bias=True)
    layer = Layer(attention, mlp, norms(hidden, "ln", bias=True))
    layers, context = num_layers(config, "n_layer"), config.size("n_positions")
    read = _transformer(config, heads, layer, layers, context, tie=False, final_norm="lm_head.ln")
    return replace(read, embedding="transformer.embd.wte", head="lm_head.linear", lm_head_bias=True)


def openai_gpt(config: Fields) -> Decoder:
    """GPT 1: norms after each part, none at the end."""
    config = config.with_defaults(n_positions=512)
    heads = _gpt_heads(config, grouped=False)
    read = _gpt2(config, heads)
    positions = tuple(t for t in read.outer if t.part == "embedding")
    return replace(read, outer=positions, embedding="transformer.tokens_embed")


def ctrl(config: Fields) -> Decoder:
    """CTRL computes its positions; its head has a bias."""
    hidden, count = config.size("n_embd", default=1280), config.size("n_head", default=16)
    heads = Heads(hidden, count, count, hidden // count)
    projections = Projections("multi_head_attention", "Wq", "Wk", "Wv", "dense", True, True)
    width = config.size("dff", default=8192)
    mlp = plain_mlp(hidden, width, at="ffn", names=("0", "2"), bias=True)
    layer = Layer(
        gqa_attention(heads, projections), mlp, norms(hidden, "layernorm1", "layernorm2", bias=True)
    )
    context, layers = config.size("n_positions", default=256), num_layers(config, "n_layer")
    name = "transformer.layernorm"
    read = _transformer(config, heads, layer, layers, context, tie=True, final_norm=name)
    bias = Tensor("lm_head.bias", read.vocab_size, 1, "norm")
    return replace(read, outer=(*read.outer, bias), embedding="transformer.w")


def gpt_neox_japanese(config: Fields) -> Decoder:
    """No biases but one, in the last layer."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, hidden // count)
    attention = gqa_attention(heads, fused("query_key_value", "dense", at="attention"))
    width = config.size("intermediate_multiple_size", default=4) * hidden
    mlp = plain_mlp(hidden, width, names=("dense_h_to_4h", "dense_4h_to_h"))
    beside = norms(hidden, "input_layernorm", "post_attention_layernorm", bias=True)
    layer, layers = Layer(attention, mlp, beside), num_layers(config)
    last = replace(layer, norms=beside + norms(hidden, "attention.dense_bias"))
    context = config.size("max_position_embeddings")
    name = "gpt_neox_japanese.final_layer_norm"
    read = _transformer(config, heads, layer, layers - 1, context, tie=True, final_norm=name)
    return replace(
        read,
        layers=(*read.layers, last),
        prefix="gpt_neox_japanese.layers",
        embedding="gpt_neox_japanese.embed_in",
    )


def cpmant(config: Fields) -> Decoder:
    """CPM-Ant: gated MLPs, one table of relative positions for all layers, prompts as inputs."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, config.size("dim_head", default=128))
    at = "self_att.self_attention"
    projections = Projections(at, "project_q", "project_k", "project_v", "attention_out")
    names = MlpNames("w_in.w_0", "w_in.w_1", "w_out")
    mlp = gated_mlp(hidden, config.size("dim_ff", default=10240), at="ffn.ffn", names=names)
    beside = norms(hidden, "self_att.layernorm_before_attention", "ffn.layernorm_before_ffn")
    layers = num_layers(config)
    kinds, length = (
        config.size("prompt_types", default=32),
        config.size("prompt_length", default=32),
    )
    segments = config.size("segment_types", default=32)
    buckets = config.size("position_bias_num_buckets", default=512)
    positions = segments**2 + buckets
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size("max_position_embeddings", default=2048),
        layers=(Layer(gqa_attention(heads, projections), mlp, beside),) * layers,
        outer=(
            *norms(hidden, "cpmant.encoder.output_layernorm"),
            Tensor("cpmant.segment_embedding", segments, hidden, "embedding"),
            Tensor("cpmant.position_bias.relative_attention_bias", positions, count, "attention"),
        ),
        tie_embeddings=False,  # the head has no rows for prompts
        prefix="cpmant.encoder.layers",
        embedding="cpmant.input_embedding",
        extra_embedding_rows=kinds * length,
    )


def jais(config: Fields) -> Decoder:
    """Jais: GPT-2 with ALiBi and gated MLPs, biases on all (vllm/model_executor/models/jais.py)."""
    heads = _gpt_heads(config, grouped=False)
    read = _gpt2(config, heads)
    if config.text("position_embedding_type", "learned") == "alibi":
        read = replace(read, outer=tuple(t for t in read.outer if t.part != "embedding"))
    if config.text("activation_function", "gelu") != "swiglu":
        return read
    width = config.size("n_inner", default=4 * heads.hidden)
    names = MlpNames("c_fc", "c_fc2", "c_proj")
    mlp = gated_mlp(heads.hidden, width, names=names, bias=True)
    (layer,) = set(read.layers)
    return replace(read, layers=(replace(layer, feed_forward=mlp),) * len(read.layers))
