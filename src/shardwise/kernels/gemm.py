"""Dense GEMMs of one rank: m tokens, n outputs, k inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shardwise.hardware.gpu import Gpu
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.formats import format_of, runs_as
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Sizes, Times
from shardwise.kernels.roofline import Rates, ideal, rates_of


def _ideal(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    (n, k), (m,) = shape, work
    form = format_of(variant)
    moved = n * k * form.weight_bytes + m * k * form.activation_bytes + 2.0 * m * n
    return ideal(2.0 * m * n * k, rates.matrix(form.rate), moved, rates.memory)


GEMM: Final = Operator(
    name="gemm",
    shape=("n", "k"),
    weights=(1.0, 1.0),
    work=("m",),
    ideal=_ideal,
    bound=_ideal,
    relatives=lambda variant: format_of(variant).relatives,
)


def gemm(gpu: Gpu, engine: str, dtype: str, m: Sizes, n: Sizes, k: Sizes) -> Times:
    """Time of one m x k times k x n product.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels, e.g. "vllm".
        dtype: A name of `formats.FORMATS`; without matrix units for it, weight-only kernels run.
        m: Tokens of the step. Arrays broadcast.
        n: Outputs of this rank.
        k: Inputs of this rank.

    Raises:
        UnknownNameError: The dtype is unknown.
        InputError: A size is not positive.
    """
    variant = runs_as(rates_of(gpu), dtype)
    return evaluate(GEMM, gpu, engine, variant, (n, k), (m,))
