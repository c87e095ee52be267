"""What each TP step changes, up and down, per batch: the published study's Table 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from shardwise import metrics
from shardwise.analysis.grid import Grid, concurrencies
from shardwise.analysis.intervals import as_percent_change, ratio
from shardwise.evidence.record import Interval, Source

Verdict = Literal["better", "worse", "same"]


def verdict_of(metric: str, change_pct: Interval) -> Verdict:
    """Whether a change of `metric` is for the better, by the metric's own direction."""
    if change_pct.value == 0:
        return "same"
    lowered = change_pct.value < 0
    return "better" if lowered == metrics.ALL[metric].lower_is_better else "worse"


def excludes_zero(change_pct: Interval) -> bool:
    """Whether the whole interval lies on one side of no change."""
    return change_pct.lo > 0 or change_pct.hi < 0


class Step(msgspec.Struct, frozen=True):
    """The change of one metric from one TP to another at one batch."""

    metric: str
    concurrency: int
    from_tp: int
    to_tp: int
    change_pct: Interval
    source: Source
    has_interval: bool = True  #: False where a cell's value came without one

    @property
    def is_up(self) -> bool:
        """Whether the step goes to a larger TP size."""
        return self.to_tp > self.from_tp

    @property
    def ratio(self) -> float:
        """after / before."""
        return 1 + self.change_pct.value / 100

    @property
    def verdict(self) -> Verdict:
        """Whether the change is for the better, by the metric's own direction."""
        return verdict_of(self.metric, self.change_pct)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves no doubt about the direction; False without one."""
        return self.has_interval and excludes_zero(self.change_pct)


def transitions(
    grid: Grid,
    names: Iterable[str] = (metrics.E2E.name, metrics.TOTAL_THROUGHPUT.name),
    rho: float = 0.0,
) -> tuple[Step, ...]:
    """Every step between neighbouring TPs, up then down, per metric and batch.

    `rho` is the correlation of the relative errors of the two cells (see `analysis.intervals`): 0
    for measured results, near 1 for predictions of one model. A cell that is absent (it does not
    fit) makes no step, so the neighbours of a batch are the TPs that it ran on.
    """
    return tuple(
        step
        for name in names
        for concurrency in concurrencies(grid)
        for step in _steps(grid, name, concurrency, rho)
    )


def _steps(grid: Grid, name: str, concurrency: int, rho: float) -> list[Step]:
    cells = {tp: e for (tp, c), e in grid.items() if c == concurrency and name in e.metrics}
    up = list(pairwise(sorted(cells)))
    down = [(high, low) for low, high in reversed(up)]
    return [
        Step(
            metric=name,
            concurrency=concurrency,
            from_tp=before,
            to_tp=after,
            change_pct=as_percent_change(
                ratio(cells[after].metrics[name], cells[before].metrics[name], rho)
            ),
            source=cells[after].source,
            has_interval=all(
                cell.metrics[name].lo < cell.metrics[name].hi
                for cell in (cells[before], cells[after])
            ),
        )
        for before, after in up + down
    ]


class StepPair(msgspec.Struct, frozen=True):
    """The same step from two sources, and how far apart they are in percentage points."""

    ours: Step
    reference: Step

    @property
    def difference_points(self) -> float:
        """Our change minus the reference's, in percentage points."""
        return self.ours.change_pct.value - self.reference.change_pct.value


def compare(ours: Iterable[Step], reference: Iterable[Step]) -> tuple[StepPair, ...]:
    """Steps found in both, in the order of `reference`."""
    by_key = {_key(step): step for step in ours}
    return tuple(StepPair(by_key[_key(r)], r) for r in reference if _key(r) in by_key)


def mean_absolute_error_points(pairs: Sequence[StepPair]) -> float:
    """Mean of |difference| over `pairs` in percentage points; NaN where there are none."""
    # `statistics` takes 10 ms to import
    found = [abs(p.difference_points) for p in pairs]
    return sum(found) / len(found) if found else float("nan")


def _key(step: Step) -> tuple[str, int, int, int]:
    return step.metric, step.concurrency, step.from_tp, step.to_tp
