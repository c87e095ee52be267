"""Other recurrent states: RecurrentGemma's linear recurrence, xLSTM's matrix memory.

Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import FeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import LinearAttention
from shardwise.architecture.reading.attention import Projections, gqa_attention, heads_of
from shardwise.architecture.reading.common import decoder, num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, linear, norm, norms
from shardwise.architecture.reading.mlps import MlpNames, gated_mlp
from shardwise.architecture.reading.states import vectors
from shardwise.architecture.tensor import Tensor


def recurrent_gemma(config: Fields) -> Decoder:
    """RecurrentGemma (arXiv:2404.07839): two gated linear recurrences, then a sliding attention."""
    heads, layers = heads_of(config), num_layers(config)
    hidden = heads.hidden
    kinds = config.items(config.name_of("block_types", "_block_types"), str)
    kinds = kinds or ["recurrent", "recurrent", "attention"]
    if not set(kinds) <= {"recurrent", "attention"}:
        raise config.bad("block_types", "a list of recurrent and attention")
    window = config.size(config.name_of("attention_window_size", "sliding_window"), default=2048)
    bias = config.flag("attention_bias", False)
    attention = gqa_attention(
        heads, Projections("temporal_block", bias=bias, o_bias=True), window=window
    )
    recurrence = _linear_recurrence(config, hidden, heads.num)
    width = config.size("intermediate_size") // 2
    mlp = gated_mlp(hidden, width, at="mlp_block", bias=True)
    return decoder(
        config,
        lambda i: attention if kinds[i % len(kinds)] == "attention" else recurrence,
        lambda _: mlp,
        layer_norms=norms(hidden, "temporal_pre_norm", "channel_pre_norm"),
        final_norm=norms(hidden, "model.final_norm"),
        tie=True,
        # a window and a state have no maximum length; this is the training length
        context=config.size("max_position_embeddings", default=8192) if layers else 0,
    )


def _linear_recurrence(config: Fields, hidden: int, blocks: int) -> LinearAttention:
    """The RG-LRU: gates are block-diagonal matrices, one block per head."""
    inner = config.size("lru_width", default=hidden)
    kernel = config.size("conv1d_width", default=4)
    at, each = "temporal_block", inner // blocks
    gates = tuple(
        tensor
        for name in ("input_gate", "recurrent_gate")
        for tensor in linear(f"{at}.rg_lru.{name}_weight", inner, each, "attention", "rows",
                             f"{name}s", units=blocks, bias=True)
    )  # fmt: skip
    tensors = (
        *linear(f"{at}.linear_y", inner, hidden, "attention", "rows", "in_proj", units=blocks,
                bias=True),
        *linear(f"{at}.linear_x", inner, hidden, "attention", "rows", "in_proj", units=blocks,
                bias=True),
        Tensor(f"{at}.conv_1d", inner, kernel, "attention", "rows", blocks),
        Tensor(f"{at}.conv_1d.bias", inner, 1, "attention", "rows", blocks),
        *gates,
        *vectors(f"{at}.rg_lru", ("recurrent_param",), inner, blocks),
        *linear(f"{at}.linear_out", hidden, inner, "attention", "cols", "out_proj", units=blocks,
                bias=True),
    )  # fmt: skip
    caches = (
        Cache("conv_state", float(inner * (kernel - 1)), blocks, per_sequence=True),
        Cache("ssm_state", float(inner), blocks, per_sequence=True, dtype="fp32"),
    )
    return LinearAttention("rg_lru", 1, inner, 1, 1, kernel, tensors, caches)


def xlstm(config: Fields) -> Decoder:
    """xLSTM (arXiv:2405.04517): a matrix memory for each head, input and forget gates."""
    config = config.with_defaults(
        hidden_size=config.get("embedding_dim"), num_hidden_layers=config.get("num_blocks")
    )
    hidden, layers = config.size("hidden_size"), num_layers(config)
    step = config.size("ffn_round_up_to_multiple_of", default=64)
    width = -(-int(hidden * config.number("ffn_proj_factor", 2.667)) // step) * step
    bias = config.flag("use_bias", False)
    names = MlpNames("proj_up_gate", "proj_up", "proj_down")
    mlp: FeedForward = gated_mlp(hidden, width, at="ffn", names=names, bias=bias)
    layer = Layer(
        _matrix_memory(config, hidden, bias), mlp, norms(hidden, "norm_mlstm", "norm_ffn")
    )
    final = norms(hidden, "backbone.out_norm") if config.flag("add_out_norm", True) else ()
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size("max_position_embeddings", default=1_048_576),
        layers=(layer,) * layers,
        outer=final,
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="backbone.blocks",
        embedding="backbone.embeddings",
    )


def _matrix_memory(config: Fields, hidden: int, bias: bool) -> LinearAttention:
    count = config.size("num_heads", default=8)
    keys = int(hidden * config.number("qk_dim_factor", 0.5))
    values = int(hidden * config.number("v_dim_factor", 1.0))
    at = "mlstm_layer"
    rows = (("q", keys, "qkv_proj"), ("k", keys, "qkv_proj"), ("v", values, "qkv_proj"),
            ("ogate_preact", values, "qkv_proj"))  # fmt: skip
    tensors = (
        *(t for name, size, gemm in rows
          for t in linear(f"{at}.{name}", size, hidden, "attention", "rows", gemm, units=count,
                          bias=bias)),
        *(t for name in ("igate_preact", "fgate_preact")
          for t in linear(f"{at}.{name}", count, hidden, "attention", "rows", "gates",
                          units=count, bias=True)),
        *norm(f"{at}.multihead_norm", values, bias=bias, cut="rows"),
        *linear(f"{at}.out_proj", hidden, values, "attention", "cols", "out_proj", units=count,
                bias=bias),
    )  # fmt: skip
    each_key, each_value = keys // count, values // count
    state = float(count * (each_key * each_value + each_key + 1))
    caches = (Cache("ssm_state", state, count, per_sequence=True, dtype="fp32"),)
    return LinearAttention("mlstm", count, count, each_key, each_value, 0, tensors, caches)
