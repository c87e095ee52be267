"""Limits of TP: the batch with the same latency, the break-even TP, the communication share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from shardwise import metrics
from shardwise.analysis.grid import Grid, concurrencies, curve, tp_sizes
from shardwise.analysis.transitions import Step
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence

Bound = Literal["exact", "at least", "none"]
COMMUNICATION = "communication"  #: its key in `Evidence.breakdown`


class KeptLatency(msgspec.Struct, frozen=True):
    """The batch at `to_tp` with the same latency as `from_tp` at `concurrency`.

    `batch` is None if even the smallest batch is slower (`bound` "none"); with "at least", the
    largest batch is still fast enough.
    """

    metric: str
    from_tp: int
    to_tp: int
    concurrency: int
    latency: float  #: of `from_tp` at `concurrency`, in the metric's unit
    batch: float | None
    bound: Bound


def latency_keeping_batch(
    grid: Grid, from_tp: int, to_tp: int, concurrency: int, metric: str = metrics.E2E.name
) -> KeptLatency:
    """Return the largest batch at `to_tp` with at most the latency of `from_tp` at `concurrency`.

    The latency of `to_tp` is interpolated linearly over log batch. Real latency is convex, so the
    answer is slightly too small. If the curve is not monotone (noise), the first crossing is used.
    """
    latency = _latency(grid, from_tp, concurrency, metric)
    points = [(batch, interval.value) for batch, interval in curve(grid, to_tp, metric)]
    batch, bound = first_crossing(points, latency)
    return KeptLatency(metric, from_tp, to_tp, concurrency, latency, batch, bound)


def latency_keeping_batches(grid: Grid, metric: str = metrics.E2E.name) -> tuple[KeptLatency, ...]:
    """Return `latency_keeping_batch` for each batch and step to the next smaller TP, largest TP
    first."""
    down = [(high, low) for low, high in reversed(list(pairwise(tp_sizes(grid))))]
    return tuple(
        latency_keeping_batch(grid, high, low, concurrency, metric)
        for high, low in down
        for concurrency in concurrencies(grid)
        if metric in getattr(grid.get((high, concurrency)), "metrics", {})
    )


def _latency(grid: Grid, tp_size: int, concurrency: int, metric: str) -> float:
    item = grid.get((tp_size, concurrency))
    if item is None or metric not in item.metrics:
        raise InputError(
            f"no {metric} for TP={tp_size} at concurrency {concurrency}",
            f"known: TP {', '.join(map(str, tp_sizes(grid)))} at "
            f"{', '.join(map(str, concurrencies(grid)))}",
        )
    return item.metrics[metric].value


def first_crossing(
    points: Sequence[tuple[int, float]], latency: float
) -> tuple[float | None, Bound]:
    """Return the first interpolated batch at which `points` (batch, seconds) exceed `latency`
    seconds."""
    if not points or points[0][1] > latency:
        return None, "none"
    for (batch, fast), (larger, slow) in pairwise(points):
        if slow > latency:
            share = (latency - fast) / (slow - fast)
            return batch * math.exp(share * math.log(larger / batch)), "exact"
    return float(points[-1][0]), "at least"


class BreakEven(msgspec.Struct, frozen=True):
    """The TP beyond which a step gains less than `min_gain_pct` at one batch.

    `next_gain_pct` is the gain of the next step; None if `tp_size` is the largest and every step
    gained enough, so the break-even may be larger.
    """

    metric: str
    concurrency: int
    min_gain_pct: float
    tp_size: int
    next_gain_pct: float | None


def breakeven_tp(
    steps: Iterable[Step], min_gain_pct: float, metric: str = metrics.E2E.name
) -> tuple[BreakEven, ...]:
    """Return per batch the smallest TP beyond which a step up improves `metric` by less than this.

    The gain is the percent change in the metric's good direction: latency saved or throughput
    added. It is based on point values.
    """
    ups: dict[int, list[Step]] = {}
    for step in steps:
        if step.metric == metric and step.is_up:
            ups.setdefault(step.concurrency, []).append(step)
    return tuple(
        _breakeven(sorted(up, key=lambda s: s.from_tp), min_gain_pct)
        for _, up in sorted(ups.items())
    )


def _breakeven(up: Sequence[Step], min_gain_pct: float) -> BreakEven:
    sign = -1 if metrics.ALL[up[0].metric].lower_is_better else 1
    for step in up:
        gain = sign * step.change_pct.value
        if gain < min_gain_pct:
            return BreakEven(step.metric, step.concurrency, min_gain_pct, step.from_tp, gain)
    return BreakEven(up[0].metric, up[0].concurrency, min_gain_pct, up[-1].to_tp, None)


def shares(evidence: Evidence) -> dict[str, float]:
    """Return the share of the breakdown's time by component, adding to 1; empty without a
    breakdown."""
    total = sum(evidence.breakdown.values())
    if total <= 0:
        return {}
    return {cause: seconds / total for cause, seconds in evidence.breakdown.items()}


def communication_share(evidence: Evidence) -> float | None:
    """Return the share of communication time; None without a breakdown."""
    parts = shares(evidence)
    return parts.get(COMMUNICATION, 0.0) if parts else None
