"""Mixers with a state per sequence: gated delta rule, Mamba-2, short convolutions.

Shapes of states: vLLM's MambaStateShapeCalculator; dtypes: its MambaStateDtypeCalculator.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.cache import Cache
from shardwise.architecture.fields import Fields
from shardwise.architecture.mixers import LinearAttention, Mamba2
from shardwise.architecture.reading.decoder import linear, norm
from shardwise.architecture.tensor import Tensor

_DTYPES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def state_dtype(config: Fields) -> str:
    """Return the dtype of recurrent states in the file; empty: the model's dtype, as in vLLM."""
    name = config.name_of("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    value = config.text(name, "auto")
    if value == "auto":
        return ""
    if value not in _DTYPES:
        raise config.bad(name, f"auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[value]


def vectors(at: str, names: tuple[str, ...], size: int, units: int) -> tuple[Tensor, ...]:
    """Return vectors with entries per head, sharded with the heads."""
    return tuple(Tensor(f"{at}.{name}", size, 1, "attention", "rows", units) for name in names)


def states(
    channels: int, kernel: int, state: int, units: tuple[int, int], dtype: str
) -> tuple[Cache, ...]:
    """Return the caches of the convolution's last inputs and of the recurrent state. `units` has
    one value for each."""
    return (
        Cache("conv_state", float(channels * (kernel - 1)), units[0], per_sequence=True),
        Cache("ssm_state", float(state), units[1], per_sequence=True, dtype=dtype),
    )


def gated_delta_net(config: Fields, *, split: bool, at: str = "linear_attn") -> LinearAttention:
    """Gated DeltaNet of Qwen3-Next and later. `split`: in_proj in four tensors (Qwen3.5)."""
    hidden = config.size("hidden_size")
    nk = config.size("linear_num_key_heads", default=16)
    nv = config.size("linear_num_value_heads", default=32)
    dk = config.size("linear_key_head_dim", default=128)
    dv = config.size("linear_value_head_dim", default=128)
    kernel = config.size("linear_conv_kernel_dim", default=4)
    keys, values = nk * dk, nv * dv
    inputs: tuple[tuple[str, int, str], ...]
    if split:
        inputs = (("in_proj_qkv", 2 * keys + values, "in_proj_qkvz"),
                  ("in_proj_z", values, "in_proj_qkvz"),
                  ("in_proj_b", nv, "in_proj_ba"), ("in_proj_a", nv, "in_proj_ba"))  # fmt: skip
    else:
        inputs = (("in_proj_qkvz", 2 * keys + 2 * values, "in_proj_qkvz"),
                  ("in_proj_ba", 2 * nv, "in_proj_ba"))  # fmt: skip
    projections = tuple(
        tensor
        for name, rows, gemm in inputs
        for tensor in linear(f"{at}.{name}", rows, hidden, "attention", "rows", gemm, units=nk)
    )
    channels = 2 * keys + values
    tensors = (
        *projections,
        Tensor(f"{at}.conv1d", channels, kernel, "attention", "rows", nk),
        *vectors(at, ("A_log", "dt_bias"), nv, nk),
        *norm(f"{at}.norm", dv),
        *linear(f"{at}.out_proj", hidden, values, "attention", "cols", "out_proj", units=nk),
    )
    caches = states(channels, kernel, nv * dv * dk, (nk, nk), state_dtype(config))
    return LinearAttention("gdn", nk, nv, dk, dv, kernel, tensors, caches)


class DeltaShape(msgspec.Struct, frozen=True):
    """Heads and gates of Kimi Delta Attention.

    `low_rank_f`, `low_rank_g`: whether decay and output gate have low-rank projections, with the
    head size as rank.
    """

    heads: int
    dim: int
    kernel: int
    low_rank_f: bool = True
    low_rank_g: bool = True


def kimi_delta_attention(
    hidden: int, shape: DeltaShape, *, at: str = "self_attn"
) -> LinearAttention:
    """Kimi Delta Attention: decay per channel. vLLM stores its state in 32 bits."""
    heads, dim, kernel = shape.heads, shape.dim, shape.kernel
    inner = heads * dim
    wide = [(name, "qkv_proj") for name in ("q_proj", "k_proj", "v_proj")]
    wide += [] if shape.low_rank_f else [("f_proj", "f_proj")]
    wide += [] if shape.low_rank_g else [("g_proj", "g_proj")]
    projections = tuple(
        tensor
        for name, gemm in wide
        for tensor in linear(f"{at}.{name}", inner, hidden, "attention", "rows", gemm, units=heads)
    )
    narrow = [("f", shape.low_rank_f), ("g", shape.low_rank_g)]
    gates = tuple(
        tensor
        for gate, used in narrow
        if used
        for tensor in (
            *linear(f"{at}.{gate}_a_proj", dim, hidden, "attention", "replicated",
                    f"{gate}_a_proj"),
            *linear(f"{at}.{gate}_b_proj", inner, dim, "attention", "rows", f"{gate}_b_proj",
                    units=heads),
        )
    )  # fmt: skip
    tensors = (
        *projections,
        *(Tensor(f"{at}.{n}_conv1d", inner, kernel, "attention", "rows", heads) for n in "qkv"),
        *gates,
        *linear(f"{at}.b_proj", heads, hidden, "attention", "rows", "b_proj", units=heads),
        *vectors(at, ("A_log",), heads, heads),
        *vectors(at, ("dt_bias",), inner, heads),
        *norm(f"{at}.o_norm", dim),
        *linear(f"{at}.o_proj", hidden, inner, "attention", "cols", "o_proj", units=heads),
    )
    caches = states(3 * inner, kernel, heads * dim * dim, (heads, heads), "fp32")
    return LinearAttention("kda", heads, heads, dim, dim, kernel, tensors, caches)


def mamba2(
    hidden: int,
    shape: Mamba2,
    *,
    at: str = "mixer",
    bias: bool = False,
    conv_bias: bool = True,
    gate_norm: bool = True,
    dtype: str = "",
) -> Mamba2:
    """Mamba-2 of the sizes in `shape`. in_proj computes gate, inputs, B, C and the step per head.

    Heads are sharded. Groups are replicated if there are more ranks than groups.
    """
    s = shape
    inner, groups = s.num_heads * s.head_dim, s.num_groups * s.state_size
    units = s.num_groups if s.num_groups > 1 else s.num_heads
    tensors = (
        *linear(f"{at}.in_proj", 2 * inner + s.num_heads, hidden, "attention", "rows", "in_proj",
                units=s.num_heads, bias=bias),
        *linear(f"{at}.in_proj", 2 * groups, hidden, "attention", "rows", "in_proj",
                units=s.num_groups, bias=bias),
        Tensor(f"{at}.conv1d", inner, s.conv_kernel, "attention", "rows", s.num_heads),
        Tensor(f"{at}.conv1d", 2 * groups, s.conv_kernel, "attention", "rows", s.num_groups),
        *((Tensor(f"{at}.conv1d.bias", inner + 2 * groups, 1, "attention", "rows", units),)
          if conv_bias else ()),
        *vectors(at, ("A_log", "D", "dt_bias"), s.num_heads, s.num_heads),
        *(norm(f"{at}.norm", inner, cut="rows") if gate_norm else ()),
        *linear(f"{at}.out_proj", hidden, inner, "attention", "cols", "out_proj",
                units=s.num_heads, bias=bias),
    )  # fmt: skip
    kernel = s.conv_kernel - 1
    caches = (
        Cache("conv_state", float(inner * kernel), s.num_heads, per_sequence=True),
        Cache("conv_state", float(2 * groups * kernel), s.num_groups, per_sequence=True),
        Cache(
            "ssm_state", float(inner * s.state_size), s.num_heads, per_sequence=True, dtype=dtype
        ),
    )
    return replace(shape, tensors=tensors, caches=caches)


def short_conv(hidden: int, kernel: int, *, bias: bool, at: str = "conv") -> LinearAttention:
    """LFM2's gated short convolution, whose state is its last inputs."""
    tensors = (
        *linear(f"{at}.in_proj", 3 * hidden, hidden, "attention", "rows", "in_proj", bias=bias),
        Tensor(f"{at}.conv", hidden, kernel, "attention", "rows"),
        *((Tensor(f"{at}.conv.bias", hidden, 1, "attention", "rows"),) if bias else ()),
        *linear(f"{at}.out_proj", hidden, hidden, "attention", "cols", "out_proj", bias=bias),
    )
    state = Cache("conv_state", float(hidden * (kernel - 1)), hidden, per_sequence=True)
    return LinearAttention("short_conv", 1, hidden, 1, 1, kernel, tensors, (state,))


def mamba1(
    hidden: int, inner: int, state: int, rank: int, kernel: int, *,
    at: str = "mixer", bias: bool = False, conv_bias: bool = True, norms_on: bool = False,
) -> LinearAttention:  # fmt: skip
    """Mamba (arXiv:2312.00752), with a state of `state` numbers per channel.

    `norms_on`: Jamba's norms of the step, B and C.
    """
    tensors = (
        *linear(f"{at}.in_proj", 2 * inner, hidden, "attention", "rows", "in_proj", bias=bias),
        Tensor(f"{at}.conv1d", inner, kernel, "attention", "rows"),
        *((Tensor(f"{at}.conv1d.bias", inner, 1, "attention", "rows"),) if conv_bias else ()),
        *linear(f"{at}.x_proj", rank + 2 * state, inner, "attention", "cols", "x_proj"),
        *linear(f"{at}.dt_proj", inner, rank, "attention", "rows", "dt_proj", bias=True),
        Tensor(f"{at}.A_log", inner, state, "attention", "rows"),
        Tensor(f"{at}.D", inner, 1, "attention", "rows"),
        *linear(f"{at}.out_proj", hidden, inner, "attention", "cols", "out_proj", bias=bias),
    )
    if norms_on:
        tensors += norm(f"{at}.dt_layernorm", rank)
        tensors += norm(f"{at}.b_layernorm", state) + norm(f"{at}.c_layernorm", state)
    caches = states(inner, kernel, inner * state, (inner, inner), "")
    return LinearAttention("mamba1", 1, inner, state, 1, kernel, tensors, caches)
