"""Surfaces: log2 seconds of one shape over the grid of work, and their interpolation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from shardwise.kernels.grid import Grid
from shardwise.kernels.provenance import Array, Provenance


class Surface(msgspec.Struct, frozen=True):
    """Times of one shape.

    Attributes:
        log2_seconds: Values on the grid; they increase along every axis.
        known: Nodes of the refined grid that are between measured points.
        nearest: Provenance of a known point.
        between: Provenance of an interpolated point.
        distance: Octaves to the nearest measured shape.
        source: The table's label.
    """

    log2_seconds: Array
    known: npt.NDArray[np.bool_]
    nearest: Provenance
    between: Provenance
    distance: float
    source: str


class Interpolated(msgspec.Struct, frozen=True):
    """Log2 seconds at clamped work, the clamped work, and which elements are on known points."""

    log2_seconds: Array
    clamped: tuple[Array, ...]
    on_point: npt.NDArray[np.bool_]
    all_known: npt.NDArray[np.bool_]


def interpolate(
    grid: Grid,
    nodes: Array,
    known: npt.NDArray[np.bool_],
    which: npt.NDArray[np.intp] | int,
    work: Sequence[Array],
) -> Interpolated:
    """Interpolate log time linearly in log work.

    Args:
        grid: The table's refined grid.
        nodes: (surfaces, *grid) log2 seconds.
        known: (surfaces, *grid) whether a node is between measured ones.
        which: Surface of each element.
        work: Work of each element, one array per axis; clamped to the grid.
    """
    axes = grid.axes
    lower, share, clamped = [], [], []
    for axis, logs, width, values in zip(axes, grid.logs, grid.log_widths, work, strict=True):
        held = np.minimum(np.maximum(values, axis[0]), axis[-1])
        cell = axis.searchsorted(held, side="right") - 1
        cell = np.minimum(np.maximum(cell, 0), max(len(axis) - 2, 0))
        lower.append(cell)
        share.append((np.log2(held) - logs[cell]) / width[cell])
        clamped.append(held)
    shape = np.broadcast_shapes(*(values.shape for values in work))
    total = np.zeros(shape)
    all_known = np.ones(shape, dtype=np.bool_)
    for corner in itertools.product((0, 1), repeat=len(axes)):
        weight = np.ones(shape)
        at: list[npt.NDArray[np.intp]] = []
        for axis, side, cell, part in zip(axes, corner, lower, share, strict=True):
            weight = weight * (part if side else 1.0 - part)
            at.append(np.minimum(cell + side, len(axis) - 1))
        total += weight * nodes[(which, *at)]
        all_known &= known[(which, *at)] | (weight < 1e-9)
    on_point = all_known
    for held, measured in zip(clamped, grid.measured, strict=True):
        on_point = on_point & _is_among(held, measured)
    return Interpolated(total, tuple(clamped), on_point, all_known)


def _is_among(values: Array, ascending: Array) -> npt.NDArray[np.bool_]:
    # np.isin imports numpy.ma, which adds 8 ms to a plan
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[place] == values)


def rising(nodes: Array) -> Array:
    """Return the nearest times that increase along every axis (isotonic least squares per axis).

    Isotonic regression preserves the order of its inputs, so earlier axes stay sorted.
    """
    for axis in range(nodes.ndim):
        nodes = _isotonic(nodes.swapaxes(axis, -1)).swapaxes(axis, -1)
    return nodes


def _isotonic(values: Array) -> Array:
    """Isotonic regression along the last axis, by the min-max formula.

    Source: Robertson, Wright and Dykstra (1988).
    """
    size = values.shape[-1]
    if (values[..., 1:] >= values[..., :-1]).all():
        return values
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    start, end = np.arange(size)[:, None], np.arange(size)[None, :]
    length = np.maximum(end - start + 1, 1)
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / length
    means = np.where(end >= start, means, np.inf)
    least = np.flip(np.minimum.accumulate(np.flip(means, -1), axis=-1), -1)
    return np.asarray(np.where(end >= start, least, -np.inf).max(axis=-2))


def filled(nodes: Array, log2_curve: Array) -> Array:
    """Fill missing values. The ratio to a curve is interpolated linearly between measured nodes and
    is constant beyond them, first along one axis and then along the other; the mean of both orders
    is taken. No value is below a measured one for less work, or above one for more.

    Args:
        nodes: (shapes, *grid) log2 seconds, nan where missing.
        log2_curve: Log2 seconds that times follow roughly, launch included.
    """
    if not np.isnan(nodes).any():
        return nodes
    axes = range(1, nodes.ndim)
    first, last = (_along(nodes - log2_curve, order) for order in (axes, reversed(axes)))
    low, high = np.nan_to_num(nodes, nan=-np.inf), np.nan_to_num(nodes, nan=np.inf)
    for axis in axes:
        low = np.maximum.accumulate(low, axis)
        high = np.flip(np.minimum.accumulate(np.flip(high, axis), axis), axis)
    between = np.minimum(np.maximum((first + last) / 2.0 + log2_curve, low), np.maximum(low, high))
    return np.asarray(np.where(np.isnan(nodes), between, nodes))


def _along(ratio: Array, axes: Iterable[int]) -> Array:
    for axis in axes:
        ratio = _bridged(ratio, axis)
    return ratio


def _bridged(values: Array, axis: int) -> Array:
    """Replace nan along `axis` by linear interpolation; at the ends, by the nearest value."""
    steps = np.cumsum(np.ones_like(values), axis=axis)
    known = np.where(np.isnan(values), np.nan, steps)
    before, after = _forward(values, axis), np.flip(_forward(np.flip(values, axis), axis), axis)
    low, high = _forward(known, axis), np.flip(_forward(np.flip(known, axis), axis), axis)
    share = (steps - low) / np.maximum(high - low, 1.0)
    between = before + share * (after - before)
    return np.where(np.isnan(before), after, np.where(np.isnan(after), before, between))


def _forward(values: Array, axis: int) -> Array:
    """Carry the last value that is not nan along `axis`."""
    moved = values.swapaxes(axis, -1)
    last = np.where(np.isnan(moved), 0, np.arange(moved.shape[-1]))
    last = np.maximum.accumulate(last, axis=-1)
    return np.take_along_axis(moved, last, axis=-1).swapaxes(axis, -1)
