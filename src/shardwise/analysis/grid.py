"""A grid of evidence: one model, GPU and workload family, by (tp_size, concurrency)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval

#: (tp_size, concurrency) -> evidence of one replica; cells that do not fit are absent
Grid = Mapping[tuple[int, int], Evidence]


def index(evidence: Iterable[Evidence]) -> Grid:
    """Index `evidence` of one family by (tp_size, concurrency), sorted.

    Everything except TP and concurrency must be equal, including the kind of evidence: a predicted
    and a measured cell are a comparison (`transitions.compare`), not a TP step.

    Raises InputError for mixed families, two results for one cell, several replicas in one result,
    or a metric whose interval is not positive or does not contain its value.
    """
    grid: dict[tuple[int, int], Evidence] = {}
    for item in evidence:
        cell = (item.deployment.tp_size, item.workload.concurrency)
        if cell in grid:
            raise InputError(
                f"two results for TP={cell[0]} at concurrency {cell[1]}",
                "a grid holds one",
                "give each source its own grid",
            )
        if item.deployment.replicas != 1:
            raise InputError(
                f"TP={cell[0]} at concurrency {cell[1]} has {item.deployment.replicas} replicas",
                "a grid holds results of one replica",
            )
        for name, metric in item.metrics.items():
            _check(name, metric, cell)
        grid[cell] = item
    if not grid:
        raise InputError("no results to study", "at least one is needed")
    families = {_family(item) for item in grid.values()}
    if len(families) > 1:
        differing = sorted(
            f"{name}: {' and '.join(sorted({str(value) for value in values}))}"
            for name, *values in zip(_FAMILY, *families, strict=True)
            if len(set(values)) > 1
        )
        raise InputError(f"results of several families ({'; '.join(differing)})", "one a grid")
    return dict(sorted(grid.items()))


def tp_sizes(grid: Grid) -> tuple[int, ...]:
    """Return the TP sizes in `grid`, ascending."""
    return tuple(sorted({tp_size for tp_size, _ in grid}))


def concurrencies(grid: Grid) -> tuple[int, ...]:
    """Return the concurrencies (batch sizes) in `grid`, ascending."""
    return tuple(sorted({concurrency for _, concurrency in grid}))


def curve(grid: Grid, tp_size: int, metric: str) -> tuple[tuple[int, Interval], ...]:
    """Return (concurrency, value) of `metric` at `tp_size`, ascending, from the cells that have
    it."""
    return tuple(
        (concurrency, item.metrics[metric])
        for concurrency in concurrencies(grid)
        if (item := grid.get((tp_size, concurrency))) and metric in item.metrics
    )


_FAMILY = ("model", "gpu", "dtype", "engine", "pp_size", "isl", "osl", "mode", "kind")


def _family(item: Evidence) -> tuple[object, ...]:
    d, w = item.deployment, item.workload
    return (
        d.model,
        d.gpu,
        d.dtypes.weight,
        d.engine,
        d.pp_size,
        w.isl,
        w.osl,
        w.mode,
        item.source.kind,
    )


def _check(name: str, metric: Interval, cell: tuple[int, int]) -> None:
    if not 0 < metric.lo <= metric.value <= metric.hi < math.inf:
        raise InputError(
            f"{name} at TP={cell[0]}, concurrency {cell[1]} is {metric.value:g} "
            f"({metric.lo:g} to {metric.hi:g})",
            "allowed: finite, above 0, the value inside its interval",
        )
