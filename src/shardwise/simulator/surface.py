"""Times by two quantities, interpolated as the performance model's kernel tables are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from shardwise.perfmodel.work import Array
from shardwise.simulator.compiling import compiled
from shardwise.simulator.trace import Floats, Ints


class Surface(msgspec.Struct, frozen=True):
    """Seconds by `rows` and `columns`: linear between these, constant before the first, and linear
    beyond the last."""

    rows: Array
    columns: Array
    seconds: Array  #: [rows, columns]

    def scaled(self, factor: float) -> Surface:
        """Return the same times multiplied by `factor`."""
        return Surface(self.rows, self.columns, self.seconds * factor)


def plane(slope: float) -> Surface:
    """Return `slope` seconds for each unit of row x column."""
    ends = np.array([0.0, 1.0])
    return Surface(ends, ends, slope * np.outer(ends, ends))


class Surfaces(NamedTuple):
    """Surfaces of K step tables, filled up to one size."""

    rows: Floats  #: [K, most rows]
    columns: Floats  #: [K, most columns]
    seconds: Floats  #: [K, most rows, most columns]
    size: Ints  #: [K, 2] rows and columns


def stacked(surfaces: Sequence[Surface]) -> Surfaces:
    """Return the surfaces as arrays."""
    size = np.array([s.seconds.shape for s in surfaces], dtype=np.int64)
    most = size.max(axis=0)
    out = Surfaces(
        np.zeros((len(size), most[0])),
        np.zeros((len(size), most[1])),
        np.zeros((len(size), most[0], most[1])),
        size,
    )
    for k, surface in enumerate(surfaces):
        rows, columns = size[k]
        out.rows[k, :rows], out.columns[k, :columns] = surface.rows, surface.columns
        out.seconds[k, :rows, :columns] = surface.seconds
    return out


@compiled
def cell_of(nodes: Floats, count: int, value: float) -> int:
    """Return the cell of `value` between the first `count` ascending `nodes`."""
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if nodes[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@compiled
def read_at(surfaces: Surfaces, k: int, row: float, column: float) -> tuple[float, float, float]:
    """Return the seconds of surface `k`, what each further unit of `column` adds, and the column at
    which that changes (infinite beyond the last cell)."""
    rows, columns, seconds = surfaces.rows[k], surfaces.columns[k], surfaces.seconds[k]
    a = cell_of(rows, surfaces.size[k, 0], row)
    b = cell_of(columns, surfaces.size[k, 1], column)
    share = max(row - rows[a], 0.0) / (rows[a + 1] - rows[a])
    low = seconds[a, b] + share * (seconds[a + 1, b] - seconds[a, b])
    high = seconds[a, b + 1] + share * (seconds[a + 1, b + 1] - seconds[a, b + 1])
    if column < columns[0]:
        return low, 0.0, columns[0]
    slope = (high - low) / (columns[b + 1] - columns[b])
    end = np.inf if b + 2 >= surfaces.size[k, 1] else columns[b + 1]
    return low + (column - columns[b]) * slope, slope, end
