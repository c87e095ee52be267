"""Transfer measured times to a shape, dtype or GPU that was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np
from msgspec.structs import replace

from shardwise.hardware.catalogue import load_catalogue
from shardwise.kernels import store
from shardwise.kernels.choice import Choice, shape_octaves
from shardwise.kernels.grid import FOLLOWED
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Places, Provenance
from shardwise.kernels.roofline import Rates, rates_of
from shardwise.kernels.surface import Surface, filled, rising

#: Number of nearest measured shapes to average, and the power of the distance in their weights.
NEIGHBOURS: Final = 6
POWER: Final = 4.0


def surface_of(
    operator: Operator,
    choice: Choice,
    table: store.Table,
    target: tuple[Rates, str],
    shape: Sequence[float],
    measured_on: Mapping[str, Rates],
) -> Surface:
    """Return the surface of `shape` on the target's GPU and variant.

    The part of a measured time above the launch is scaled by the ratio of the two rooflines. The
    results of the nearest shapes are averaged in logs, weighted by distance. `measured_on` has the
    rates of the measured GPUs.
    """
    octaves = shape_octaves(operator, table.shapes, shape)
    nearest = np.argsort(octaves, kind="stable")[:NEIGHBOURS]
    nearest = nearest[:1] if octaves[nearest[0]] < 1e-6 else nearest
    own = choice.provenance in (Provenance.MEASURED, Provenance.OTHER_ENGINE)
    exact = bool(octaves[nearest[0]] < 1e-6)
    donor = (_measured_rates(choice, target[0], measured_on), choice.entry.variant)
    measured = table.log2_seconds[nearest]
    log2_seconds = _carried(
        operator,
        table,
        nearest,
        (donor, (target[0], choice.entry.variant) if own else target),
        shape,
        choice.entry.launch_s,
    )
    weights = 1.0 / np.maximum(octaves[nearest], 1e-6) ** POWER
    nodes = np.asarray(np.einsum("s,s...->...", weights / weights.sum(), log2_seconds))
    fine = _refined(operator, table, nodes, target, (shape, choice.entry.launch_s))
    reached = replace(target[0], memory=target[0].memory * choice.entry.memory_share)
    bound = np.log2(operator.bound(reached, target[1], *_on(shape, table.grid.columns)))
    missing = np.asarray(np.isnan(measured).all(axis=0))
    known = np.ones(fine.shape, dtype=np.bool_)
    if missing.any():
        known = np.asarray(table.grid.refine(missing.astype(np.float64)) == 0.0)
    between = max(choice.provenance, Provenance.INTERPOLATED)
    return Surface(
        log2_seconds=np.maximum(rising(np.maximum(fine, bound)), bound),
        known=known,
        nearest=choice.provenance if exact else between,
        between=between,
        distance=float(octaves[nearest[0]]),
        source=choice.entry.label,
    )


def _measured_rates(choice: Choice, asked: Rates, measured_on: Mapping[str, Rates]) -> Rates:
    """Return the rates of the GPU on which a table was measured.

    For the table's own GPU these are the rates of the bundled catalogue, because a user's file may
    have changed those of `asked`.
    """
    noted = measured_on[choice.entry.gpu]
    if choice.provenance is Provenance.OTHER_GPU:
        return noted
    same = (noted.memory, noted.link) == (asked.memory, asked.link)
    if same and set(noted.flops) <= set(asked.flops):
        return asked
    return _catalogued(choice.entry.gpu) or asked


@cache
def _catalogued(gpu_id: str) -> Rates | None:
    gpu = load_catalogue().by_id.get(gpu_id)
    return rates_of(gpu) if gpu else None


def followed(
    operator: Operator,
    target: tuple[Rates, str],
    columns: tuple[Sequence[Array], Sequence[Array]],
    launch_s: float,
) -> Array:
    """Return log2 seconds of the curve that times follow between measured points."""
    return np.asarray(np.log2(launch_s + operator.ideal(*target, *columns) / FOLLOWED))


def _refined(
    operator: Operator,
    table: store.Table,
    nodes: Array,
    target: tuple[Rates, str],
    shape_and_launch: tuple[Sequence[float], float],
) -> Array:
    shape, launch_s = shape_and_launch
    grid = table.grid
    coarse = followed(operator, target, _on(shape, grid.measured_columns), launch_s)
    fine = followed(operator, target, _on(shape, grid.columns), launch_s)
    return np.asarray(grid.refine(nodes - coarse) + fine)


def _carried(
    operator: Operator,
    table: store.Table,
    rows: Places,
    rates: tuple[tuple[Rates, str], tuple[Rates, str]],
    shape: Sequence[float],
    launch_s: float,
) -> Array:
    """Return log2 seconds of each row transferred to `shape`, over the grid."""
    donor, target = rates
    columns = list(table.shapes[rows].T)
    factor = operator.alike(columns, shape)
    columns = [column.reshape(-1, *[1] * len(table.axes)) for column in columns]
    grid = table.grid.measured_columns
    theirs = operator.ideal(*donor, columns, grid)
    logs = np.broadcast_to(np.log2(theirs), table.log2_seconds[rows].shape)
    curve = followed(operator, donor, (columns, grid), launch_s)
    slowness = filled(table.log2_seconds[rows], np.broadcast_to(curve, logs.shape)) - logs
    if np.any(factor != 1.0):
        first, *others = grid
        moved = [first * factor.reshape(columns[0].shape), *others]
        theirs = operator.ideal(*donor, columns, moved)
        slowness = _moved(slowness, table.axes[0], factor)
    seconds = np.exp2(slowness) * theirs
    launch = np.minimum(launch_s, seconds)
    ours = operator.ideal(*target, *_on(shape, grid))
    return np.asarray(np.log2(launch + (seconds - launch) * (ours / theirs)))


def _moved(values: Array, axis: Array, factor: Array) -> Array:
    """Return values of each row, which belong to `axis`, at `factor` times as much work. They are
    linear in the log of work, and constant beyond the axis."""
    logs, last = np.log2(axis), len(axis) - 1
    place = np.interp(logs + np.log2(factor)[:, None], logs, np.arange(len(axis)))
    low = np.minimum(place.astype(np.intp), max(last - 1, 0))
    share = (place - low).reshape(*place.shape, *[1] * (values.ndim - 2))
    rows = np.arange(len(values))[:, None]
    return np.asarray(
        values[rows, low] * (1.0 - share) + values[rows, np.minimum(low + 1, last)] * share
    )


def _on(shape: Sequence[float], work: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return shape columns that broadcast to those of `work`, and `work`."""
    return [np.asarray(value) for value in shape], work
