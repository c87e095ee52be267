"""Zamba: Mamba layers, and a transformer block shared by several layers.

A layer with the block is read as two layers: the block, whose weights are stored at its first use,
and the Mamba layer. Shapes: the modelling code of transformers 5.23.
"""

from __future__ import annotations

from msgspec.structs import replace

from shardwise.architecture.feed_forward import Mlp, NoFeedForward
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import Attention, Mamba2, Mixer
from shardwise.architecture.reading.attention import Heads, gqa_attention
from shardwise.architecture.reading.common import max_context, num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, linear, norms
from shardwise.architecture.reading.families.gated import reused
from shardwise.architecture.reading.mlps import FUSED, gated_mlp
from shardwise.architecture.reading.states import mamba1, mamba2, state_dtype
from shardwise.architecture.tensor import Tensor

_KINDS = {"linear_attention": "mamba", "mamba": "mamba", "hybrid": "hybrid"}


def zamba(config: Fields) -> Decoder:
    """Zamba: Mamba-1 layers and one block for all."""
    hidden, layers = config.size("hidden_size"), num_layers(config)
    period = config.size("attn_layer_period", default=6)
    offset = config.size("attn_layer_offset", default=4, lo=0)
    kinds = _kinds(config, layers) or [
        "hybrid" if i == 2 or (i > 2 and (i - 3) % period == offset) else "mamba"
        for i in range(layers)
    ]
    rank = config.get("mamba_dt_rank")
    state = mamba1(
        hidden,
        config.size("mamba_expand", default=2) * hidden,
        config.size("mamba_d_state", default=16),
        -(-hidden // 16) if rank in (None, "auto") else config.size("mamba_dt_rank"),
        config.size("mamba_d_conv", default=4),
        at="mamba",
        bias=config.flag("mamba_proj_bias", False),
        conv_bias=config.flag("mamba_conv_bias", True),
    )
    attention = _attention(config, hidden)
    mlp = gated_mlp(hidden, config.size("intermediate_size"), at="feed_forward")
    block = _block(hidden, attention, mlp)
    again = _again(block)
    used = iter((block, *(again,) * layers))
    return _decoder(config, [next(used) if kind == "hybrid" else None for kind in kinds], state)


def zamba2(config: Fields) -> Decoder:
    """Zamba2: several shared blocks in turn, each use with its own low-rank adapters.

    Files older than the class in transformers have different names for some fields.
    """
    hidden, layers = config.size("hidden_size"), num_layers(config)
    kinds = _kinds(config, layers) or ["hybrid" if i in _HYBRID else "mamba" for i in range(layers)]
    bias = config.flag("add_bias_linear", False)
    inner = config.size(config.name_of("mamba_expand", "expansion_factor"), default=2) * hidden
    heads = _mamba_heads(config, inner)
    shape = Mamba2(
        heads,
        inner // heads,
        config.size(config.name_of("mamba_d_state", "state_size"), default=64),
        config.size("mamba_ngroups", default=1),
        config.size(config.name_of("mamba_d_conv", "conv_dimension"), default=4),
    )
    state = mamba2(
        hidden,
        shape,
        at="mamba",
        bias=bias,
        conv_bias=config.flag("use_conv_bias", True),
        dtype=state_dtype(config),
    )
    width = config.size(config.name_of("intermediate_size", "ffn_hidden_size"), default=4 * hidden)
    rank = config.size(config.name_of("adapter_rank", "lora_rank"), default=128)
    attention = _attention(config, hidden)
    mlp = gated_mlp(hidden, width, at="feed_forward", names=FUSED, bias=bias)
    of_mlp: tuple[Tensor, ...] = ()
    if config.flag("use_shared_block_lora", True):
        of_mlp = _adapter("feed_forward.gate_up_proj_adapter", hidden, rank, 2 * width)
    of_attention: tuple[Tensor, ...] = ()
    adapted = config.name_of("use_shared_attention_adapter", "use_shared_attention_lora")
    if config.flag(adapted, False):
        of_attention = tuple(
            tensor
            for name in "qkv"
            for tensor in _adapter(f"self_attn.linear_{name}_adapter", 2 * hidden, rank, 2 * hidden)
        )
    block = _block(hidden, attention, mlp)
    again = _again(block)

    def with_adapters(layer: Layer) -> Layer:
        assert isinstance(layer.mixer, Attention)
        assert isinstance(layer.feed_forward, Mlp)
        mixer = replace(layer.mixer, tensors=layer.mixer.tensors + of_attention)
        part = replace(layer.feed_forward, tensors=layer.feed_forward.tensors + of_mlp)
        return replace(layer, mixer=mixer, feed_forward=part)

    blocks = config.size("num_mem_blocks", default=1)
    stored, repeated = with_adapters(block), with_adapters(again)
    used = iter((*(stored,) * blocks, *(repeated,) * layers))
    return _decoder(config, [next(used) if kind == "hybrid" else None for kind in kinds], state)


def _mamba_heads(config: Fields, inner: int) -> int:
    if config.has("n_mamba_heads") or not config.has("mamba_headdim"):
        return config.size("n_mamba_heads", default=8)
    wide = config.size("mamba_headdim")
    if inner % wide:
        raise config.bad("mamba_headdim", f"a divisor of {inner}, the features of a layer's state")
    return inner // wide


#: Hybrid layers of the default 54 layers in Zamba2Config.
_HYBRID = frozenset({6, 12, 18, 24, 30, 36, 42, 47, 51})


def _kinds(config: Fields, layers: int) -> list[str]:
    written = config.items(config.name_of("layers_block_type", "layer_types"), str)
    kinds = [_KINDS.get(kind, kind) for kind in written]
    if kinds and (len(kinds) != layers or not set(kinds) <= {"mamba", "hybrid"}):
        raise config.bad("layers_block_type", f"{layers} times mamba or hybrid")
    return kinds


def _attention(config: Fields, hidden: int) -> Attention:
    """Attention over hidden states and embeddings concatenated: twice the input features."""
    count = config.size("num_attention_heads")
    wide = config.size("attention_hidden_size", default=2 * hidden)
    dim = config.size("attention_head_dim", default=2 * hidden // count)
    kv = config.size("num_key_value_heads", default=count)
    made = gqa_attention(Heads(wide, count, kv, dim))
    out = linear("self_attn.o_proj", hidden, count * dim, "attention", "cols", "o_proj",
                 units=count)  # fmt: skip
    tensors = tuple(t for t in made.tensors if t.name != "self_attn.o_proj")
    return replace(made, tensors=tensors + out)


def _block(hidden: int, attention: Attention, mlp: Mlp) -> Layer:
    return Layer(attention, mlp, norms(2 * hidden, "input_layernorm")
                 + norms(hidden, "pre_ff_layernorm"))  # fmt: skip


def _again(block: Layer) -> Layer:
    assert isinstance(block.mixer, Attention)
    assert isinstance(block.feed_forward, Mlp)
    return Layer(
        replace(block.mixer, tensors=reused(block.mixer.tensors)),
        replace(block.feed_forward, tensors=reused(block.feed_forward.tensors)),
        reused(block.norms),
    )


def _adapter(name: str, inputs: int, rank: int, outputs: int) -> tuple[Tensor, ...]:
    return (
        *linear(f"{name}.0", rank, inputs, "attention", "replicated", f"{name}.0"),
        *linear(f"{name}.1", outputs, rank, "attention", "rows", f"{name}.1"),
    )


def _decoder(config: Fields, blocks: list[Layer | None], state: Mixer) -> Decoder:
    """Return Mamba layers, each optionally preceded by a shared block."""
    hidden = config.size("hidden_size")
    alone = Layer(state, NoFeedForward(), norms(hidden, "input_layernorm"))
    joining = linear("linear", hidden, hidden, "mlp", "replicated", "linear")
    behind = replace(alone, norms=alone.norms + joining)
    made = []
    for number, block in enumerate(blocks):
        if block is not None:
            made.append(replace(block, number=number))
        made.append(replace(behind if block is not None else alone, number=number))
    long = config.flag("use_long_context", False)
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=16384 if long else max_context(config, default=4096),
        layers=tuple(made),
        outer=norms(hidden, "model.final_layernorm"),
        tie_embeddings=config.flag("tie_word_embeddings", True),
    )
