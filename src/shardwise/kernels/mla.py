"""Multi-head latent attention: the kernel alone, and the whole block with its projections.

Sizes are those of DeepSeek-V3, Kimi and GLM: 512 latent and 64 rotary dimensions in the cache;
heads of 128 + 64 for queries and keys, 128 for values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.hardware.gpu import Gpu
from shardwise.kernels.attention import (
    BYTES,
    attention_variant,
    check_cached,
    relatives,
    same_pairs,
)
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.formats import format_of, runs_as
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance, Sizes, Times
from shardwise.kernels.roofline import Rates, ideal, rates_of

LATENT: Final = 512.0
ROTARY: Final = 64.0
HEAD: Final = 128.0
QUERY_LATENT: Final = 1536.0


def prefill_work(heads: Array, batch: Array, isl: Array, kv_dtype: str) -> tuple[Array, Array]:
    """Return FLOPs and bytes of causal attention with keys and values expanded per head."""
    flops = batch * heads * isl**2 * (2.0 * HEAD + ROTARY)
    moved = (
        batch * isl * (heads * 2.0 * (4.0 * HEAD + ROTARY) + (LATENT + ROTARY) * BYTES[kv_dtype])
    )
    return flops, moved


def decode_work(heads: Array, batch: Array, context: Array, kv_dtype: str) -> tuple[Array, Array]:
    """Return FLOPs and bytes of the attention of one token per sequence in the latent space."""
    flops = 2.0 * batch * heads * context * (2.0 * LATENT + ROTARY)
    per_head = 2.0 * (2.0 * LATENT + ROTARY)
    moved = batch * (context * (LATENT + ROTARY) * BYTES[kv_dtype] + heads * per_head)
    return flops, moved


def projections(heads: Array, hidden: Array) -> Array:
    """Return the weights of the block's GEMMs: queries, latent, keys and values, output."""
    queries = QUERY_LATENT * (hidden + heads * (HEAD + ROTARY))
    latent = hidden * (LATENT + ROTARY) + LATENT * heads * 2.0 * HEAD
    return np.asarray(queries + latent + heads * HEAD * hidden)


def _prefill(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    dtype, kv_dtype = variant.split("/")
    flops, moved = prefill_work(shape[0], work[0], work[1], kv_dtype)
    return ideal(flops, rates.matrix(dtype), moved, rates.memory)


def _decode(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    dtype, kv_dtype = variant.split("/")
    flops, moved = decode_work(shape[0], work[0], work[1], kv_dtype)
    return ideal(flops, rates.matrix(dtype), moved, rates.memory)


def _block(rates: Rates, gemm_dtype: str, shape: Sequence[Array], tokens: Array) -> Array:
    form = format_of(gemm_dtype)
    weights = projections(shape[0], shape[1])
    return ideal(
        2.0 * weights * tokens, rates.matrix(form.rate), weights * form.weight_bytes, rates.memory
    )


def _prefill_block(
    rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    dtype, kv_dtype, gemm_dtype = variant.split("/")
    kernel = _prefill(rates, f"{dtype}/{kv_dtype}", shape, work)
    return np.asarray(kernel + _block(rates, gemm_dtype, shape, work[0] * work[1]))


def _decode_block(
    rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]
) -> Array:
    dtype, kv_dtype, gemm_dtype = variant.split("/")
    kernel = _decode(rates, f"{dtype}/{kv_dtype}", shape, work)
    return np.asarray(kernel + _block(rates, gemm_dtype, shape, work[0]))


def block_relatives(variant: str) -> list[str]:
    """Return variants of whole blocks whose efficiency can be used instead, best first.

    The dtype of the projections matters most.
    """
    dtype, kv_dtype, gemm_dtype = variant.split("/")
    pairs = relatives(f"{dtype}/{kv_dtype}")
    return [f"{pair}/{form}" for form in format_of(gemm_dtype).relatives for pair in pairs]


MLA_PREFILL: Final = Operator(
    "mla_prefill", ("heads",), (1.0,), ("batch", "isl"), _prefill, _prefill, relatives
)
MLA_DECODE: Final = Operator(
    "mla_decode", ("heads",), (1.0,), ("batch", "context"), _decode, _decode, relatives
)
MLA_PREFILL_BLOCK: Final = Operator(
    "mla_prefill_block",
    ("heads", "hidden"),
    (1.0, 1.0),
    ("batch", "isl"),
    _prefill_block,
    _prefill_block,
    block_relatives,
)
MLA_DECODE_BLOCK: Final = Operator(
    "mla_decode_block",
    ("heads", "hidden"),
    (1.0, 1.0),
    ("batch", "context"),
    _decode_block,
    _decode_block,
    block_relatives,
)


def mla_prefill(
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    isl: Sizes,
    heads: Sizes,
    cached: Sizes = 0,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> Times:
    """Time of the prefill kernel of one layer, without any projection.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        isl: New tokens of each.
        heads: Query heads of this rank.
        cached: Tokens of each sequence already in the cache.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive, or `cached` is negative.
    """
    before = check_cached(cached)
    whole = same_pairs(np.asarray(isl, np.float64), before)
    variant = attention_variant(dtype, kv_dtype)
    times = evaluate(MLA_PREFILL, gpu, engine, variant, (heads,), (batch, whole))
    return times.at_least(Provenance.EXTRAPOLATED, before > 0)


def mla_decode(
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    context: Sizes,
    heads: Sizes,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    query_tokens: Sizes = 1,
) -> Times:
    """Time of the decode kernel of one layer, without projections.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        context: Tokens of each sequence, the new one included.
        heads: Query heads of this rank.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".
        query_tokens: Tokens of each sequence in the step; they share one read of the cache.

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive.
    """
    queries = np.asarray(heads, np.float64) * np.asarray(query_tokens, np.float64)
    variant = attention_variant(dtype, kv_dtype)
    return evaluate(MLA_DECODE, gpu, engine, variant, (queries,), (batch, context))


def mla_prefill_block(  # noqa: PLR0913, PLR0917 - one block has this many sizes
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    isl: Sizes,
    heads: Sizes,
    hidden: Sizes,
    gemm_dtype: str,
    cached: Sizes = 0,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> Times:
    """Time of one layer's whole attention block in prefill: projections, kernel, output.

    Tables have prompts without a cached prefix. A prefix adds the difference of the attention
    kernel's times. The GEMM that expands cached latents to keys and values is not included.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        isl: New tokens of each.
        heads: Query heads of this rank.
        hidden: Model width.
        gemm_dtype: Format of the projections, a name of `formats.FORMATS`.
        cached: Tokens of each sequence already in the cache.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive, or `cached` is negative.
    """
    before = check_cached(cached)
    variant = block_variant(gpu, dtype, kv_dtype, gemm_dtype)
    block = evaluate(MLA_PREFILL_BLOCK, gpu, engine, variant, (heads, hidden), (batch, isl))
    if not before.any():
        return block
    reading, fresh = (
        mla_prefill(gpu, engine, batch, isl, heads, tokens, dtype, kv_dtype)
        for tokens in (before, 0)
    )
    return block.plus(np.maximum(reading.seconds - fresh.seconds, 0.0), reading)


def mla_decode_block(
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    context: Sizes,
    heads: Sizes,
    hidden: Sizes,
    gemm_dtype: str,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> Times:
    """Time of one layer's whole attention block in a decode step.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        batch: Sequences in the call.
        context: Tokens of each sequence, the new one included.
        heads: Query heads of this rank.
        hidden: Model width.
        gemm_dtype: Format of the projections, a name of `formats.FORMATS`.
        dtype: Format of the arithmetic, "bf16" or "fp8".
        kv_dtype: Format of the cache, "bf16" or "fp8".

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive.
    """
    variant = block_variant(gpu, dtype, kv_dtype, gemm_dtype)
    return evaluate(MLA_DECODE_BLOCK, gpu, engine, variant, (heads, hidden), (batch, context))


def block_variant(gpu: Gpu, dtype: str, kv_dtype: str, gemm_dtype: str) -> str:
    """Return the name of a block's dtypes in the tables. Raises UnknownNameError."""
    return f"{attention_variant(dtype, kv_dtype)}/{runs_as(rates_of(gpu), gemm_dtype)}"
