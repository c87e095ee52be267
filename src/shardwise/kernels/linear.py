"""Linear attention and state-space layers: a causal convolution, then a scan over a state.

Kinds: "gdn" (gated delta rule), "kda" (Kimi delta attention), "mamba2". The scan of Mamba2 was not
measured: its own roofline is used with the efficiency of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from shardwise.errors import UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Sizes, Times
from shardwise.kernels.roofline import Rates, ideal

KINDS: Final = ("gdn", "kda", "mamba2")
#: Bytes per element of the state: fp32, read and written once per step. Source: engines' default.
#: GDN decode on H200 takes 71 us for 268 MB; a 16-bit state would halve the bytes.
_STATE_BYTES: Final = 8.0
#: Tokens per state update of a convolution: width 4 in every model measured.
_CONVOLUTION: Final = 4.0


def _channels(shape: Sequence[Array]) -> Array:
    k_heads, v_heads, key_dim, value_dim = shape
    return np.asarray(2.0 * k_heads * key_dim + v_heads * value_dim)


def _state(shape: Sequence[Array]) -> Array:
    _, v_heads, key_dim, value_dim = shape
    return np.asarray(v_heads * key_dim * value_dim)


def _scan_prefill(
    rates: Rates, _variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    batch, isl = work
    tokens = batch * isl
    flops = 4.0 * tokens * _state(shape)  # update and read of the state
    moved = 2.0 * tokens * (_channels(shape) + shape[1] * shape[3])
    return ideal(flops, rates.matrix("bf16"), moved, rates.memory)


def _scan_decode(
    rates: Rates, _variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    moved = work[0] * _state(shape) * _STATE_BYTES
    return np.asarray(moved / rates.memory)


def _convolution_prefill(
    rates: Rates, _variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    return np.asarray(4.0 * work[0] * work[1] * _channels(shape) / rates.memory)


def _convolution_decode(
    rates: Rates, _variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    return np.asarray(4.0 * _CONVOLUTION * work[0] * _channels(shape) / rates.memory)


def _halved_state(least: Callable[..., Array]) -> Callable[..., Array]:
    """Return a strict bound, since the state may be stored in 16 bits."""

    def bound(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
        return np.asarray(least(rates, variant, shape, work) / 2.0)

    return bound


def _relatives(variant: str) -> list[str]:
    return [variant, *(kind for kind in KINDS if kind != variant)]


_SHAPE: Final = ("k_heads", "v_heads", "key_dim", "value_dim")
_WEIGHTS: Final = (0.5, 1.0, 1.0, 1.0)
SCAN_PREFILL: Final = Operator(
    "linear_scan_prefill",
    _SHAPE,
    _WEIGHTS,
    ("batch", "isl"),
    _scan_prefill,
    _scan_prefill,
    _relatives,
)
SCAN_DECODE: Final = Operator(
    "linear_scan_decode",
    _SHAPE,
    _WEIGHTS,
    ("batch",),
    _scan_decode,
    _halved_state(_scan_decode),
    _relatives,
)
CONVOLUTION_PREFILL: Final = Operator(
    "linear_convolution_prefill",
    _SHAPE,
    _WEIGHTS,
    ("batch", "isl"),
    _convolution_prefill,
    _convolution_prefill,
    _relatives,
)
CONVOLUTION_DECODE: Final = Operator(
    "linear_convolution_decode",
    _SHAPE,
    _WEIGHTS,
    ("batch",),
    _convolution_decode,
    _halved_state(_convolution_decode),
    _relatives,
)


def linear_prefill(
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    isl: Sizes,
    k_heads: Sizes,
    v_heads: Sizes,
    key_dim: Sizes = 128,
    value_dim: Sizes = 128,
    kind: str = "gdn",
) -> Times:
    """Time of one layer's convolution and scan over a prompt, without projections.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        isl: New tokens of each. Cached tokens take no time, because the state includes them.
        k_heads: Key heads of this rank; groups of Mamba2.
        v_heads: Value heads of this rank; heads of Mamba2.
        key_dim: Width of a key head; state size of Mamba2.
        value_dim: Width of a value head; head width of Mamba2.
        kind: One of `KINDS`.

    Raises:
        UnknownNameError: The kind is unknown.
        InputError: A size is not positive.
    """
    shape = (k_heads, v_heads, key_dim, value_dim)
    return _both(gpu, engine, (CONVOLUTION_PREFILL, SCAN_PREFILL), kind, shape, (batch, isl))


def linear_decode(
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    k_heads: Sizes,
    v_heads: Sizes,
    key_dim: Sizes = 128,
    value_dim: Sizes = 128,
    kind: str = "gdn",
) -> Times:
    """Time of one layer's convolution and state update in a decode step.

    Raises:
        UnknownNameError: The kind is unknown.
        InputError: A size is not positive.
    """
    shape = (k_heads, v_heads, key_dim, value_dim)
    return _both(gpu, engine, (CONVOLUTION_DECODE, SCAN_DECODE), kind, shape, (batch,))


def _both(
    gpu: Gpu,
    engine: str,
    operators: tuple[Operator, Operator],
    kind: str,
    shape: Sequence[Sizes],
    work: Sequence[Sizes],
) -> Times:
    if kind not in KINDS:
        raise UnknownNameError("linear attention", kind, KINDS)
    first, second = (evaluate(part, gpu, engine, kind, shape, work) for part in operators)
    return first.plus(second.seconds, second)
