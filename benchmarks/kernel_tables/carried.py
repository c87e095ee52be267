"""Errors of times transferred from another engine's, dtype's or GPU's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kernel_tables.errors import at_measured
from shardwise.kernels import store
from shardwise.kernels.choice import Choice, gpu_distance
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance
from shardwise.kernels.roofline import Rates
from shardwise.kernels.transfer import surface_of

#: Number of shapes of each table to compare, spread evenly over it.
SHAPES = 6

Known = tuple[store.Entry, store.Table]


def carried_errors(
    operator: Operator, tables: Sequence[Known], rates: dict[str, Rates]
) -> dict[str, Array]:
    """Return relative errors of each table predicted from its nearest relative, by kind."""
    found: dict[str, list[Array]] = {}
    for entry, table in tables:
        for kind, (donor, donor_table) in _relatives(operator, entry, tables, rates):
            choice = Choice(donor, kind)
            target = (rates[entry.gpu], entry.variant)
            count = len(table.shapes)
            for n in np.unique(np.linspace(0, count - 1, min(count, SHAPES)).astype(int)):
                surface = surface_of(
                    operator, choice, donor_table, target, table.shapes[n].tolist(), rates
                )
                theirs = at_measured(donor_table, surface)
                errors = _where_both(theirs, donor_table, table, n)
                found.setdefault(kind.name.lower(), []).append(errors)
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def _relatives(
    operator: Operator, entry: store.Entry, tables: Sequence[Known], rates: dict[str, Rates]
) -> Iterator[tuple[Provenance, Known]]:
    """Yield the nearest table that differs only in engine, only in variant, and only in GPU."""
    same_gpu = [known for known in tables if known[0].gpu == entry.gpu]
    for known in same_gpu:
        if known[0].variant == entry.variant and known[0].engine != entry.engine:
            yield Provenance.OTHER_ENGINE, known
            break
    order = [name for name in operator.relatives(entry.variant) if name != entry.variant]
    by_variant = {known[0].variant: known for known in same_gpu if known[0].engine == entry.engine}
    near = next((by_variant[name] for name in order if name in by_variant), None)
    if near is not None:
        yield Provenance.OTHER_DTYPE, near
    others = [
        known
        for known in tables
        if known[0].gpu != entry.gpu
        and (known[0].engine, known[0].variant) == (entry.engine, entry.variant)
    ]
    if others:
        mine = rates[entry.gpu]
        yield (
            Provenance.OTHER_GPU,
            min(others, key=lambda known: gpu_distance(mine, rates[known[0].gpu])),
        )


def _where_both(theirs: Array, donor: store.Table, table: store.Table, row: int) -> Array:
    """Return relative errors at the work that is on the axes of both tables."""
    left, right = [], []
    for mine, other in zip(table.axes, donor.axes, strict=True):
        _, here, there = np.intersect1d(mine, other, return_indices=True)
        left.append(here)
        right.append(there)
    measured = table.log2_seconds[row][np.ix_(*left)]
    errors = np.exp2(theirs[np.ix_(*right)] - measured) - 1.0
    return np.asarray(np.abs(errors[~np.isnan(errors)]))
