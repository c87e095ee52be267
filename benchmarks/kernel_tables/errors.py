"""Errors of a table on held-out points and held-out shapes."""

from __future__ import annotations

import numpy as np

from shardwise.kernels import store
from shardwise.kernels.choice import Choice
from shardwise.kernels.grid import columns_on
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Provenance
from shardwise.kernels.roofline import Rates
from shardwise.kernels.surface import Surface
from shardwise.kernels.transfer import followed, surface_of

#: Number of shapes of a table that are held out in turn, spread evenly over it.
SHAPES_LEFT_OUT = 24


def point_errors(operator: Operator, entry: store.Entry, table: store.Table, rates: Rates) -> Array:
    """Return the relative error of each inner point, interpolated from its two neighbours on each
    axis."""
    dims = len(table.axes)
    columns = list(table.shapes.T.reshape(table.shapes.shape[1], -1, *[1] * dims))
    curve = followed(
        operator, (rates, entry.variant), (columns, columns_on(table.axes)), entry.launch_s
    )
    ratios = table.log2_seconds - curve
    found = []
    for n, axis in enumerate(table.axes):
        moved = np.moveaxis(ratios, n + 1, -1)
        if len(axis) < 3:
            continue
        logs = np.log2(axis)
        share = (logs[1:-1] - logs[:-2]) / (logs[2:] - logs[:-2])
        between = moved[..., :-2] * (1.0 - share) + moved[..., 2:] * share
        errors = np.exp2(between - moved[..., 1:-1]) - 1.0
        found.append(np.abs(errors[~np.isnan(errors)]))
    return np.concatenate(found) if found else np.array([])


def shape_errors(operator: Operator, entry: store.Entry, table: store.Table, rates: Rates) -> Array:
    """Return the relative errors of held-out shapes at each of their measured points."""
    count = len(table.shapes)
    if count < 3:
        return np.array([])
    found = []
    for n in np.unique(np.linspace(0, count - 1, min(count, SHAPES_LEFT_OUT)).astype(int)):
        rest = np.arange(count) != n
        others = store.Table(table.shapes[rest], table.axes, table.log2_seconds[rest])
        surface = _surface(operator, entry, others, rates, table.shapes[n].tolist())
        errors = np.exp2(at_measured(table, surface) - table.log2_seconds[n]) - 1.0
        found.append(np.abs(errors[~np.isnan(errors)]))
    return np.concatenate(found)


def moved(operator: Operator, entry: store.Entry, table: store.Table, rates: Rates) -> Array:
    """Return the relative change of each point that makes times increase with work and stay above
    the roofline."""
    final = np.stack(
        [
            at_measured(table, _surface(operator, entry, table, rates, shape))
            for shape in table.shapes.tolist()
        ]
    )
    errors = np.exp2(final - table.log2_seconds) - 1.0
    return np.asarray(errors[~np.isnan(errors)])


def _surface(
    operator: Operator, entry: store.Entry, table: store.Table, rates: Rates, shape: list[float]
) -> Surface:
    """Return the surface of `shape` from `table`, on the GPU that it was measured on."""
    choice, target = Choice(entry, Provenance.MEASURED), (rates, entry.variant)
    return surface_of(operator, choice, table, target, shape, {entry.gpu: rates})


def at_measured(table: store.Table, surface: Surface) -> Array:
    """Return a surface at the measured nodes of the table."""
    return np.asarray(surface.log2_seconds[np.ix_(*table.grid.is_measured)])
