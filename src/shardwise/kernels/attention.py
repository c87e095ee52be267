"""Softmax attention over a cache of keys and values: prefill and decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.errors import InputError, UnknownNameError
from shardwise.hardware.gpu import Gpu
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance, Sizes, Times
from shardwise.kernels.roofline import Rates, ideal

#: Window that means no window: no context is longer.
NO_WINDOW: Final = float(2**20)
#: Windows in the tables. Others use the rows without a window, at the same number of token pairs,
#: because the time of a kernel follows what it reads and multiplies.
MEASURED_WINDOWS: Final = (128.0,)
DTYPES: Final = ("bf16", "fp8")
BYTES: Final = {"bf16": 2.0, "fp8": 1.0}
_RELATIVES: Final = {
    "bf16/bf16": ("bf16/bf16", "bf16/fp8", "fp8/fp8"),
    "bf16/fp8": ("bf16/fp8", "fp8/fp8", "bf16/bf16"),
    "fp8/fp8": ("fp8/fp8", "bf16/fp8", "bf16/bf16"),
    "fp8/bf16": ("bf16/bf16", "bf16/fp8", "fp8/fp8"),
}


def attention_variant(dtype: str, kv_dtype: str) -> str:
    """Return the name of a pair of dtypes in the tables.

    Raises:
        UnknownNameError: A dtype is neither bf16 nor fp8.
    """
    for given in (dtype, kv_dtype):
        if given not in DTYPES:
            raise UnknownNameError("attention dtype", given, DTYPES)
    return f"{dtype}/{kv_dtype}"


def relatives(variant: str) -> tuple[str, ...]:
    """Return pairs of dtypes whose efficiency can be used instead, best first."""
    return _RELATIVES[variant]


def _prefill(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    heads, kv_heads, head_dim, window = shape
    batch, isl = work
    dtype, kv_dtype = variant.split("/")
    pairs = np.minimum(isl / 2.0, window) * isl
    moved = isl * head_dim * (4.0 * heads + 2.0 * kv_heads * BYTES[kv_dtype])
    flops = 4.0 * batch * heads * head_dim * pairs
    return ideal(flops, rates.matrix(dtype), batch * moved, rates.memory)


def _decode(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    heads, kv_heads, head_dim, window = shape
    batch, context = work
    dtype, kv_dtype = variant.split("/")
    seen = np.minimum(context, window)
    moved = head_dim * (2.0 * kv_heads * BYTES[kv_dtype] * seen + 4.0 * heads)
    flops = 4.0 * batch * heads * head_dim * seen
    return ideal(flops, rates.matrix(dtype), batch * moved, rates.memory)


def _same_caches(shapes: Sequence[Array], asked: Sequence[float]) -> Array:
    """Each KV head of each sequence is read on its own, so as many of them are as efficient."""
    return np.asarray(asked[1] / shapes[1])


_SHAPE: Final = ("heads", "kv_heads", "head_dim", "window")
# weights: the best of a few tried on held-out shapes; prefill depends on query heads, decode on KV
# heads

PREFILL: Final = Operator(
    name="attention_prefill",
    shape=_SHAPE,
    weights=(1.0, 0.5, 1.5, 0.3),
    work=("batch", "isl"),
    ideal=_prefill,
    bound=_prefill,
    relatives=relatives,
)
DECODE: Final = Operator(
    name="attention_decode",
    shape=_SHAPE,
    weights=(0.5, 1.0, 1.5, 0.3),
    work=("batch", "context"),
    ideal=_decode,
    bound=_decode,
    relatives=relatives,
    alike=_same_caches,
)


def attention_prefill(  # noqa: PLR0913, PLR0917 - one call has this many sizes
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    isl: Sizes,
    heads: Sizes,
    kv_heads: Sizes,
    head_dim: Sizes,
    cached: Sizes = 0,
    window: float = 0,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> Times:
    """Time of causal attention of one layer over new tokens.

    Tables have prompts without a cached prefix. A prompt with one takes the time of an uncached
    prompt with the same number of (query, key) pairs.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        isl: New tokens of each.
        heads: Query heads of this rank.
        kv_heads: Cache heads of this rank.
        head_dim: Width of a head.
        cached: Tokens of each sequence already in the cache.
        window: Tokens a query sees; 0 for all.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive, or `cached` is negative.
    """
    new, before = np.asarray(isl, np.float64), check_cached(cached)
    whole = new if not np.any(before) else same_pairs(new, before)
    shape = (heads, kv_heads, head_dim, window or NO_WINDOW)
    return evaluate(PREFILL, gpu, engine, attention_variant(dtype, kv_dtype), shape, (batch, whole))


def attention_decode(  # noqa: PLR0913, PLR0917 - one call has this many sizes
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    context: Sizes,
    heads: Sizes,
    kv_heads: Sizes,
    head_dim: Sizes,
    window: float = 0,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    query_tokens: Sizes = 1,
) -> Times:
    """Time of one decode step's attention of one layer.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        context: Tokens of each sequence, the new one included.
        heads: Query heads of this rank.
        kv_heads: Cache heads of this rank.
        head_dim: Width of a head.
        window: Tokens a query sees; 0 for all.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".
        query_tokens: Tokens of each sequence in the step: more than one where drafts are verified.
            They share one read of the cache, as query heads of one cache head do.

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive.
    """
    queries = np.asarray(heads, np.float64) * np.asarray(query_tokens, np.float64)
    held, seen = np.asarray(context, np.float64), _seen(window)
    read = held if seen in MEASURED_WINDOWS else np.minimum(held, seen)
    shape = (queries, kv_heads, head_dim, _table_window(seen))
    variant = attention_variant(dtype, kv_dtype)
    times = evaluate(DECODE, gpu, engine, variant, shape, (batch, read))
    return times.at_least(Provenance.EXTRAPOLATED, read != held)


def _seen(window: float) -> float:
    """Return the tokens that a query sees. Raises InputError for a negative window."""
    if not window >= 0:
        raise InputError(f"attention window {window:g}", "allowed: 0 for none, or tokens")
    return float(window) or NO_WINDOW


def _table_window(seen: float) -> float:
    return seen if seen in MEASURED_WINDOWS else NO_WINDOW


def check_cached(cached: Sizes) -> Array:
    """Return cached tokens as an array. Raises InputError if any is negative."""
    array = np.asarray(cached, np.float64)
    if array.size and not array.min() >= 0:
        raise InputError(f"cached tokens {array.min():g}", "allowed: 0 or more")
    return array


def same_pairs(isl: Array, cached: Array) -> Array:
    """Return the length of an uncached prompt with the same number of (query, key) pairs as `isl`
    new tokens after `cached` ones."""
    return np.asarray(np.sqrt(isl**2 + 2.0 * isl * cached))
