"""Decoders under fairseq's names: XGLM, BioGPT, Kosmos 2. Biases everywhere, plain MLPs."""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.attention import Heads, Projections, gqa_attention
from shardwise.architecture.reading.common import num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, norms
from shardwise.architecture.reading.mlps import plain_mlp
from shardwise.architecture.tensor import Tensor

_PROJECTIONS = Projections(o="out_proj", bias=True, o_bias=True)


def _fairseq(
    config: Fields, heads: Heads, width: int, layers: int, context: int, prefix: str
) -> Decoder:
    mlp = plain_mlp(heads.hidden, width, at="", names=("fc1", "fc2"), bias=True)
    beside = norms(heads.hidden, "self_attn_layer_norm", "final_layer_norm", bias=True)
    layer = Layer(gqa_attention(heads, _PROJECTIONS), mlp, beside)
    return Decoder(
        hidden_size=heads.hidden,
        vocab_size=config.size("vocab_size"),
        max_context=context,
        layers=(layer,) * layers,
        outer=norms(heads.hidden, f"{prefix}.layer_norm", bias=True),
        tie_embeddings=config.flag("tie_word_embeddings", True),
        prefix=f"{prefix}.layers",
        embedding=f"{prefix}.embed_tokens",
    )


def xglm(config: Fields) -> Decoder:
    """XGLM computes its positions."""
    hidden = config.size(config.name_of("d_model", "hidden_size"))
    count = config.size(config.name_of("attention_heads", "num_attention_heads"))
    layers = num_layers(config, config.name_of("num_layers", "num_hidden_layers"))
    heads = Heads(hidden, count, count, hidden // count)
    context = config.size("max_position_embeddings", default=2048)
    return _fairseq(config, heads, config.size("ffn_dim"), layers, context, "model")


def biogpt(config: Fields) -> Decoder:
    """BioGPT has a table of positions."""
    hidden, count = config.size("hidden_size"), config.size("num_attention_heads")
    heads = Heads(hidden, count, count, hidden // count)
    context = config.size("max_position_embeddings", default=1024)
    width, layers = config.size("intermediate_size"), num_layers(config)
    read = _fairseq(config, heads, width, layers, context, "biogpt")
    table = Tensor("biogpt.embed_positions", context + 2, hidden, "embedding")
    return replace(read, outer=(*read.outer, table))


def kosmos2(config: Fields) -> Decoder:
    """Norms within attention and within the MLP as well."""
    hidden = config.size(config.name_of("embed_dim", "hidden_size"))
    count = config.size(config.name_of("attention_heads", "num_attention_heads"))
    layers = num_layers(config, config.name_of("layers", "num_hidden_layers"))
    width = config.size(config.name_of("ffn_dim", "intermediate_size"))
    heads = Heads(hidden, count, count, hidden // count)
    context = config.size("max_position_embeddings", default=2048)
    read = _fairseq(config, heads, width, layers, context, "text_model.model")
    inner = norms(hidden, "self_attn.inner_attn_ln", bias=True)
    inner += norms(width, "ffn.ffn_layernorm", bias=True)
    (layer,) = set(read.layers)
    return replace(read, layers=(replace(layer, norms=layer.norms + inner),) * layers)
