"""Sparse latent attention (DeepSeek sparse attention): an indexer selects the tokens to attend to.

Tables have whole blocks: projections, indexer, sparse kernel, output. Decode was measured with a
context of two tokens, prefill without a cached prefix. For a longer context or a prefix, the latent
kernel over the selected tokens is added, and the work of the indexer at its roofline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.hardware.gpu import Gpu
from shardwise.kernels import mla
from shardwise.kernels.attention import check_cached, same_pairs
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.formats import format_of
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance, Sizes, Times
from shardwise.kernels.roofline import ASSUMED_EFFICIENCY, Rates, ideal, rates_of

#: Tokens that the indexer selects, its heads and their width, in DeepSeek-V3.2.
INDEX_TOP_K: Final = 2048.0
INDEX_HEADS: Final = 64.0
INDEX_HEAD: Final = 128.0
#: Bytes per token of the indexer's cache: 128 in fp8 and one fp32 scale.
INDEX_BYTES: Final = 132.0


def _prefill(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    """Roofline: up to 2,048 tokens, prompts attend to all; beyond, to the 2,048 selected ones."""
    base, _, skips = variant.partition("+")
    dtype, kv_dtype, gemm_dtype = base.split("/")
    (heads, hidden), (batch, isl) = shape, work
    dense = np.minimum(isl, INDEX_TOP_K)
    flops, moved = mla.prefill_work(heads, batch, dense, kv_dtype)
    flops = flops * np.maximum(2.0 * isl / dense - 1.0, 1.0)
    kernel = ideal(flops, rates.matrix(dtype), moved * (isl / dense), rates.memory)
    index = np.zeros(1) if skips else _scores(rates, batch * isl**2 / 2.0)
    form = format_of(gemm_dtype)
    weights = mla.projections(heads, hidden)
    products = ideal(
        2.0 * weights * batch * isl,
        rates.matrix(form.rate),
        weights * form.weight_bytes,
        rates.memory,
    )
    return np.asarray(kernel + index + products)


def _decode(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    base, _, _ = variant.partition("+")
    return mla.MLA_DECODE_BLOCK.ideal(rates, base, shape, (work[0], np.asarray(2.0)))


def _scores(rates: Rates, pairs: Array) -> Array:
    """Seconds of the indexer's scores at the fp8 rate."""
    return np.asarray(2.0 * INDEX_HEADS * INDEX_HEAD * pairs / rates.matrix("fp8"))


def _relatives(variant: str) -> list[str]:
    base, _, skips = variant.partition("+")
    near = mla.block_relatives(base)
    ends = ("+skip", "") if skips else ("", "+skip")
    return [name + end for end in ends for name in near]


SPARSE_PREFILL: Final = Operator(
    "sparse_prefill",
    ("heads", "hidden"),
    (1.0, 1.0),
    ("batch", "isl"),
    _prefill,
    _prefill,
    _relatives,
)
SPARSE_DECODE: Final = Operator(
    "sparse_decode", ("heads", "hidden"), (1.0, 1.0), ("batch",), _decode, _decode, _relatives
)


def sparse_prefill(  # noqa: PLR0913, PLR0917 - one block has this many sizes
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
    indexer: bool = True,
) -> Times:
    """Time of one layer's whole sparse-attention block in prefill.

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
        indexer: Whether this layer has an indexer; some models share one between layers.

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive, or `cached` is negative.
    """
    before = check_cached(cached)
    variant = mla.block_variant(gpu, dtype, kv_dtype, gemm_dtype) + ("" if indexer else "+skip")
    block = evaluate(SPARSE_PREFILL, gpu, engine, variant, (heads, hidden), (batch, isl))
    if not before.any():
        return block
    new, sequences = np.asarray(isl, np.float64), np.asarray(batch, np.float64)
    most = np.sqrt(2.0 * new * INDEX_TOP_K)  # a prompt with as many pairs as are selected
    reading, fresh = (
        mla.mla_prefill(gpu, engine, batch, tokens, heads, 0, dtype, kv_dtype)
        for tokens in (np.minimum(same_pairs(new, before), most), np.minimum(new, most))
    )
    added = np.maximum(reading.seconds - fresh.seconds, 0.0)
    if indexer:
        added = added + _scores(rates_of(gpu), sequences * new * before) / ASSUMED_EFFICIENCY
    return block.plus(added, reading).at_least(Provenance.EXTRAPOLATED, before > 0)


def sparse_decode(  # noqa: PLR0913, PLR0917 - one block has this many sizes
    gpu: Gpu,
    engine: str,
    batch: Sizes,
    context: Sizes,
    heads: Sizes,
    hidden: Sizes,
    gemm_dtype: str,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    indexer: bool = True,
) -> Times:
    """Time of one layer's whole sparse-attention block in a decode step.

    The provenance is at least EXTRAPOLATED, because tables have no context.

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
        indexer: Whether this layer has an indexer.

    Raises:
        UnknownNameError: A dtype is unknown.
        InputError: A size is not positive.
    """
    variant = mla.block_variant(gpu, dtype, kv_dtype, gemm_dtype) + ("" if indexer else "+skip")
    block = evaluate(SPARSE_DECODE, gpu, engine, variant, (heads, hidden), (batch,))
    held = np.asarray(context, np.float64)
    picked = np.minimum(held, INDEX_TOP_K)
    near = mla.mla_decode(gpu, engine, batch, picked, heads, dtype, kv_dtype)
    none = mla.mla_decode(gpu, engine, batch, 2.0, heads, dtype, kv_dtype)
    added = np.maximum(near.seconds - none.seconds, 0.0)
    if indexer:
        rates = rates_of(gpu)
        sequences = np.asarray(batch, np.float64)
        read = sequences * held * INDEX_BYTES / rates.memory
        added = added + np.maximum(read, _scores(rates, sequences * held)) / ASSUMED_EFFICIENCY
    return block.plus(added, near).at_least(Provenance.EXTRAPOLATED)
