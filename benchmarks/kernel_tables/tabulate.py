"""Convert the rows of one GPU, engine and variant to a table on a grid of work."""

from __future__ import annotations

import numpy as np

from kernel_tables.rows import Rows
from shardwise.kernels.provenance import Array, Places
from shardwise.kernels.store import Table

#: An axis with more distinct values than this is resampled on powers of two (AITER's tuned sizes).
MOST_NODES = 40


def version_key(version: str) -> tuple[int, ...]:
    """Return a sort key of a version: the numbers of "1.3.0rc20", "2026-08-22" and similar."""
    digits = "".join(c if c.isdigit() else " " for c in version)
    return tuple(int(part) for part in digits.split())


def newest(rows: Rows) -> Rows:
    """Return one row per shape and work: the median of the newest version's rows."""
    versions = sorted(set(rows.version.tolist()), key=version_key)
    rank = np.array([versions.index(version) for version in rows.version.tolist()])
    points = np.concatenate([rows.shape, rows.work], axis=1)
    _, which = np.unique(points, axis=0, return_inverse=True)
    which = which.reshape(-1)
    best = np.full(which.max() + 1, -1)
    np.maximum.at(best, which, rank)
    order = np.flatnonzero(rank == best[which])
    order = order[np.lexsort((rows.seconds[order], which[order]))]
    _, first, count = np.unique(which[order], return_index=True, return_counts=True)
    middle = rows.take(order[first + (count - 1) // 2])
    upper = rows.seconds[order[first + count // 2]]
    return Rows(
        middle.gpu,
        middle.engine,
        middle.version,
        middle.variant,
        middle.shape,
        middle.work,
        np.sqrt(middle.seconds * upper),
    )


def tabulate(rows: Rows) -> Table:
    """Return a table with one row per shape, and all measured values of work as axes."""
    shapes, which = np.unique(rows.shape, axis=0, return_inverse=True)
    which = which.reshape(-1)
    if len(np.unique(rows.work[:, 0])) > MOST_NODES:
        return _resampled(rows, shapes, which)
    places, axes = [], []
    for column in rows.work.T:
        axis, at = np.unique(column, return_inverse=True)
        axes.append(axis)
        places.append(at)
    log2_seconds = np.full((len(shapes), *(len(axis) for axis in axes)), np.nan)
    log2_seconds[(which, *places)] = np.log2(rows.seconds)
    return Table(shapes, tuple(axes), log2_seconds)


def _resampled(rows: Rows, shapes: Array, which: Places) -> Table:
    """Return a table on powers of two of work, with each shape interpolated within its range."""
    work = rows.work[:, 0]
    axis = 2.0 ** np.arange(np.floor(np.log2(work.min())), np.ceil(np.log2(work.max())) + 1)
    log2_seconds = np.full((len(shapes), len(axis)), np.nan)
    for n in range(len(shapes)):
        mine = np.flatnonzero(which == n)
        mine = mine[np.argsort(work[mine])]
        log2_seconds[n] = np.interp(
            np.log2(axis),
            np.log2(work[mine]),
            np.log2(rows.seconds[mine]),
            left=np.nan,
            right=np.nan,
        )
    kept = ~np.isnan(log2_seconds).all(axis=1)
    return Table(shapes[kept], (axis,), log2_seconds[kept])
