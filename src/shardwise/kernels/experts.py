"""Routed experts of one MoE layer on one rank: grouped GEMMs, gate and up, then down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shardwise.hardware.gpu import Gpu
from shardwise.kernels.choice import candidates
from shardwise.kernels.evaluate import evaluate
from shardwise.kernels.formats import format_of, runs_as, slower_formats
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Sizes, Times
from shardwise.kernels.roofline import Rates, ideal, rates_of


def touched(experts: Array, assignments: Array) -> Array:
    """Return the expected number of distinct experts among `assignments` uniform draws."""
    return np.asarray(experts * (1.0 - (1.0 - 1.0 / experts) ** assignments))


def _ideal(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    _, _, experts, top_k, ep_size, _ = shape
    here = np.maximum(experts / ep_size, 1.0)
    return _time(rates, variant, shape, work, touched(here, work[0] * top_k / ep_size))


def _bound(rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array]) -> Array:
    _, _, _, top_k, ep_size, _ = shape
    return _time(rates, variant, shape, work, top_k / ep_size)  # all tokens on the same experts


def _time(
    rates: Rates, variant: str, shape: Sequence[Array], work: Sequence[Array], reached: Array
) -> Array:
    hidden, inter, _, top_k, ep_size, matrices = shape
    (tokens,) = work
    form = format_of(variant)
    rows = tokens * top_k / ep_size
    weights = matrices * hidden * inter
    moved = reached * weights * form.weight_bytes + rows * hidden * (form.activation_bytes + 2.0)
    return ideal(2.0 * rows * weights, rates.matrix(form.rate), moved, rates.memory)


def _same_rows(shapes: Sequence[Array], asked: Sequence[float]) -> Array:
    """As many rows per expert are as efficient."""
    share = [top_k / experts for experts, top_k in ((asked[2], asked[3]), (shapes[2], shapes[3]))]
    return np.asarray(share[0] / share[1])


EXPERTS: Final = Operator(
    name="experts",
    shape=("hidden", "inter", "experts", "top_k", "ep_size", "matrices"),
    weights=(1.0, 1.0, 1.5, 1.0, 1.0, 2.0),
    work=("tokens",),
    ideal=_ideal,
    bound=_bound,
    relatives=lambda variant: format_of(variant).relatives,
    alike=_same_rows,
)


def experts(  # noqa: PLR0913, PLR0917 - one grouped product has this many sizes
    gpu: Gpu,
    engine: str,
    dtype: str,
    tokens: Sizes,
    hidden: Sizes,
    inter: Sizes,
    num_experts: Sizes,
    top_k: Sizes,
    ep_size: Sizes = 1,
    gated: bool = True,
) -> Times:
    """Time of one layer's routed experts on the most loaded rank.

    Tables were measured with skewed routing (a power law of exponent 1.2), AITER's with uniform
    routing. `perfmodel.routing` has what a call reads.

    A format without a table takes the efficiency of its nearest relative, but is not slower than a
    measured format with wider weights: a relative that gains little from fast matrix units would
    make it so (w4a8 from mxfp4 on MI355X). Without a format's tables, this lowers the median error
    of experts from 24 to 20 %; GEMMs are no better for it.

    Args:
        gpu: A GPU of the catalogue.
        engine: Whose kernels.
        dtype: A name of `formats.FORMATS`; without matrix units for it, weight-only kernels run.
        tokens: Tokens that enter the layer over all `ep_size` ranks, before routing.
        hidden: Model width.
        inter: Expert width on this rank, divided by the tensor-parallel size of experts.
        num_experts: Routed experts of the layer over all ranks.
        top_k: Experts per token.
        ep_size: Ranks that share the layer's experts, each with `num_experts / ep_size`.
        gated: Three matrices per expert (gate, up, down); two without a gate.

    Raises:
        UnknownNameError: The dtype is unknown.
        InputError: A size is not positive.
    """
    rates = rates_of(gpu)
    variant = runs_as(rates, dtype)
    shape = (hidden, inter, num_experts, top_k, ep_size, 3 if gated else 2)
    times = evaluate(EXPERTS, gpu, engine, variant, shape, (tokens,))
    measured = {choice.entry.variant for choice in candidates(EXPERTS, rates, engine, variant)}
    if variant not in measured:
        for other in slower_formats(rates, variant):
            if other in measured:
                times = times.at_most(evaluate(EXPERTS, gpu, engine, other, shape, (tokens,)))
    return times
