"""RWKV 4 to 7: a recurrent state per head (per channel in RWKV-4) and token shifts.

Shapes: transformers 5.23 (RWKV-4), modeling_rwkv5.py and modeling_rwkv6.py of the published
checkpoints (RWKV-5, RWKV-6, arXiv:2404.05892), flash-linear-attention (RWKV-7, arXiv:2503.14456).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.feed_forward import Mlp
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import LinearAttention
from shardwise.architecture.reading.common import num_layers
from shardwise.architecture.reading.decoder import Decoder, Layer, joined, linear, norm, norms
from shardwise.architecture.reading.states import vectors
from shardwise.architecture.tensor import Tensor


def rwkv(config: Fields) -> Decoder:
    """RWKV-4 (arXiv:2305.13048): a decayed sum of keys and values for each channel."""
    hidden = config.size("hidden_size")
    inner = config.size("attention_hidden_size", default=hidden)
    width = config.size("intermediate_size", default=4 * hidden)
    block = Layer(_time_mix(hidden, inner), _channel_mix(hidden, width),
                  norms(hidden, "ln1", "ln2", bias=True))  # fmt: skip
    return _blocks(config, block)


def _time_mix(hidden: int, inner: int) -> LinearAttention:
    at = "attention"
    tensors = (
        *joined(linear(f"{at}.{name}", inner, hidden, "attention", "rows", "qkv_proj")
                for name in ("receptance", "key", "value")),
        *vectors(at, ("time_decay", "time_first"), inner, 0),
        *(Tensor(f"{at}.time_mix_{name}", hidden, 1, "attention")
          for name in ("key", "value", "receptance")),
        *linear(f"{at}.output", hidden, inner, "attention", "cols", "o_proj"),
    )  # fmt: skip
    caches = (
        # the last token's input of both parts, and numerator, denominator and maximum
        Cache("conv_state", 2.0 * hidden, per_sequence=True),
        Cache("ssm_state", 3.0 * inner, inner, per_sequence=True, dtype="fp32"),
    )
    return LinearAttention("rwkv", 1, inner, 3, 1, 2, tensors, caches)


def _channel_mix(hidden: int, width: int) -> Mlp:
    at = "feed_forward"
    tensors = (
        *linear(f"{at}.key", width, hidden, "mlp", "rows", "up_proj"),
        *linear(f"{at}.receptance", hidden, hidden, "mlp", "replicated", "receptance"),
        *linear(f"{at}.value", hidden, width, "mlp", "cols", "down_proj"),
        *(Tensor(f"{at}.time_mix_{name}", hidden, 1, "mlp") for name in ("key", "receptance")),
    )
    return Mlp(width, False, tensors)


def rwkv5(config: Fields) -> Decoder:
    """RWKV-5 "Eagle": a matrix state per head with a fixed decay."""
    return _matrix_state(config, _eagle)


def rwkv6(config: Fields) -> Decoder:
    """RWKV-6 "Finch": RWKV-5 with token shifts and a decay that depend on the input."""
    return _matrix_state(config, _finch)


def _matrix_state(config: Fields, mixer: Callable[[Fields, int], LinearAttention]) -> Decoder:
    hidden = config.size("hidden_size")
    width = config.size("intermediate_size", default=int(3.5 * hidden) // 32 * 32)
    block = Layer(
        mixer(config, hidden), _channel_mix(hidden, width), norms(hidden, "ln1", "ln2", bias=True)
    )
    return _blocks(config, block)


def _blocks(config: Fields, block: Layer) -> Decoder:
    """Return equal blocks; the first one has a norm of the embedding."""
    hidden = config.size("hidden_size")
    first = replace(block, norms=norms(hidden, "pre_ln", bias=True) + block.norms)
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size(
            config.name_of("context_length", "max_position_embeddings"), default=1024
        ),
        layers=(first,) + (block,) * (num_layers(config) - 1),
        outer=norms(hidden, "rwkv.ln_out", bias=True),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        prefix="rwkv.blocks",
        embedding="rwkv.embeddings",
        head="head",
    )


def _eagle(config: Fields, hidden: int) -> LinearAttention:
    heads, dim = _heads(config, hidden)
    shifts = tuple(
        Tensor(f"attention.time_mix_{name}", hidden, 1, "attention")
        for name in ("gate", "key", "value", "receptance")
    )
    return _time_mixing(hidden, heads, dim, shifts, ("time_decay", "time_faaaa"))


def _finch(config: Fields, hidden: int) -> LinearAttention:
    heads, dim = _heads(config, hidden)
    inner, at = heads * dim, "attention"
    wide = hidden == 4096  # the ranks are not in the file
    mix, decay = (64, 128) if wide else (32, 64)
    shifts = (
        *(Tensor(f"{at}.time_maa_{name}", hidden, 1, "attention") for name in "xwkvrg"),
        *linear(f"{at}.time_maa_w1", 5 * mix, hidden, "attention", "replicated", "time_maa_w1"),
        *linear(f"{at}.time_maa_w2", hidden, mix, "attention", "replicated", "time_maa_w2",
                copies=5),
        *linear(f"{at}.time_decay_w1", decay, hidden, "attention", "replicated", "time_decay_w1"),
        *linear(f"{at}.time_decay_w2", inner, decay, "attention", "rows", "time_decay_w2",
                units=heads),
    )  # fmt: skip
    return _time_mixing(hidden, heads, dim, shifts, ("time_decay", "time_faaaa"))


def _heads(config: Fields, hidden: int) -> tuple[int, int]:
    """Return (heads, size of a head)."""
    inner = config.size(config.name_of("attention_hidden_size", "dim_att"), default=hidden)
    name = config.name_of("head_size", "head_dim")
    dim = config.size(name, default=64)
    if inner % dim:
        raise config.bad(name, f"a divisor of the attention width {inner}")
    return inner // dim, dim


def _time_mixing(
    hidden: int, heads: int, dim: int, shifts: tuple[Tensor, ...], per_channel: tuple[str, ...]
) -> LinearAttention:
    """Time mixing of RWKV-5 and 6. `shifts`: tensors that mix a token with the previous one."""
    at, inner = "attention", heads * dim
    tensors = (
        *joined(linear(f"{at}.{name}", inner, hidden, "attention", "rows", "qkv_proj", units=heads)
                for name in ("receptance", "key", "value", "gate")),
        *vectors(at, per_channel, inner, heads),
        *shifts,
        *norm(f"{at}.ln_x", inner, bias=True, cut="rows"),
        *linear(f"{at}.output", hidden, inner, "attention", "cols", "output", units=heads),
    )  # fmt: skip
    return LinearAttention("rwkv", heads, heads, dim, dim, 2, tensors, _states(hidden, heads, dim))


def _states(hidden: int, heads: int, dim: int) -> tuple[Cache, ...]:
    """The last token's input of both parts, and a matrix per head."""
    return (
        Cache("conv_state", 2.0 * hidden, per_sequence=True),
        Cache("ssm_state", float(heads * dim * dim), heads, per_sequence=True, dtype="fp32"),
    )


def rwkv7(config: Fields) -> Decoder:
    """RWKV-7 "Goose": a generalized delta rule whose gates are low-rank projections.

    The first layer has no value residual, so no low-rank projection of it.
    """
    hidden, layers = config.size("hidden_size"), num_layers(config)
    if config.has("attn"):
        raise config.bad("attn", "null: hybrids with attention layers are not supported")
    width = config.size("intermediate_size", default=int(4 * hidden))
    beside = norms(hidden, "attn_norm", "ffn_norm", bias=config.flag("norm_bias", True))
    mlp = _squared_relu(hidden, width)
    later = Layer(_goose(config, hidden, first=False), mlp, beside)
    first = Layer(
        _goose(config, hidden, first=True),
        mlp,
        norms(hidden, "pre_norm", bias=config.flag("norm_bias", True)) + beside,
    )
    if not config.flag("norm_first", True):
        first = replace(first, norms=beside)
    longest = config.name_of("max_position_embeddings", "context_length")
    return Decoder(
        hidden_size=hidden,
        vocab_size=config.size("vocab_size"),
        max_context=config.size(longest, default=4096),
        layers=(first,) + (later,) * (layers - 1),
        outer=norms(hidden, "model.norm", bias=config.flag("norm_bias", True)),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        embedding="model.embeddings",
    )


def _squared_relu(hidden: int, width: int) -> Mlp:
    tensors = (
        *linear("ffn.key", width, hidden, "mlp", "rows", "up_proj"),
        *linear("ffn.value", hidden, width, "mlp", "cols", "down_proj"),
        Tensor("ffn.x_k", hidden, 1, "mlp"),
    )
    return Mlp(width, False, tensors)


def _goose(config: Fields, hidden: int, *, first: bool) -> LinearAttention:
    heads, dim = _heads(config, hidden)
    at, inner = "attn", heads * dim
    ranks = {
        "w": config.size(config.name_of("decay_low_rank_dim", "decay_lora_rank")),
        "a": config.size(config.name_of("a_low_rank_dim", "in_context_learning_lora_rank")),
        "g": config.size(config.name_of("gate_low_rank_dim", "gate_lora_rank")),
        "v": config.size(config.name_of("v_low_rank_dim", "value_lora_rank")),
    }
    gates = joined(
        (
            *linear(f"{at}.{name}_lora.lora.0", rank, hidden, "attention", "replicated",
                    f"{name}_lora_a"),
            *linear(f"{at}.{name}_lora.lora.2", inner, rank, "attention", "rows",
                    f"{name}_lora_b", units=heads, bias=name != "g"),
        )
        for name, rank in ranks.items()
        if not (first and name == "v")
    )  # fmt: skip
    tensors = (
        *(Tensor(f"{at}.x_{name}", hidden, 1, "attention") for name in "rwkvag"),
        *vectors(at, ("k_k", "k_a", "r_k"), inner, heads),
        *joined(linear(f"{at}.{name}_proj", inner, hidden, "attention", "rows", "qkv_proj",
                       units=heads) for name in "rkv"),
        *gates,
        *norm(f"{at}.g_norm", inner, bias=True, cut="rows"),
        *linear(f"{at}.o_proj", hidden, inner, "attention", "cols", "o_proj", units=heads),
    )  # fmt: skip
    return LinearAttention("rwkv", heads, heads, dim, dim, 2, tensors, _states(hidden, heads, dim))
