"""Compare two sources of the same cells: errors of predictions against measurements."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import msgspec

from shardwise import metrics
from shardwise.evidence.record import Evidence, Interval


class CellPair(msgspec.Struct, frozen=True):
    """One metric of one cell, predicted and measured."""

    tp_size: int
    concurrency: int
    metric: str
    predicted: Interval
    measured: Interval

    @property
    def error_pct(self) -> float:
        """Prediction error in percent; above 0: predicted too high."""
        return metrics.percent_change(self.measured.value, self.predicted.value)

    @property
    def is_covered(self) -> bool:
        """Whether the measured value is in the predicted interval."""
        return self.predicted.lo <= self.measured.value <= self.predicted.hi


def beside(predicted: Iterable[Evidence], measured: Iterable[Evidence]) -> tuple[CellPair, ...]:
    """Return every common metric of both sources for the same deployment and load."""
    known = {_cell(item): item for item in predicted}
    return tuple(
        CellPair(
            item.deployment.tp_size,
            item.workload.concurrency,
            name,
            known[_cell(item)].metrics[name],
            value,
        )
        for item in measured
        if _cell(item) in known
        for name, value in item.metrics.items()
        if name in known[_cell(item)].metrics
    )


def alike(cell: Evidence, measured: Iterable[Evidence]) -> list[Evidence]:
    """Return the evidence in `measured` with the model, GPU, engine, dtype and lengths of
    `cell`."""
    return [item for item in measured if _family(item) == _family(cell)]


def _family(item: Evidence) -> tuple[object, ...]:
    d, w = item.deployment, item.workload
    return (d.model, d.gpu, d.engine, d.dtypes.weight, round(w.isl), round(w.osl), w.mode)


def mean_absolute_error_pct(pairs: Iterable[CellPair]) -> float:
    """Return the mean of |error| in percent; NaN without pairs."""
    errors = [abs(pair.error_pct) for pair in pairs]
    return fmean(errors) if errors else float("nan")


def _cell(item: Evidence) -> tuple[object, ...]:
    d, w = item.deployment, item.workload
    return (
        *(d.model, d.gpu, d.dtypes.weight, d.engine, d.layout, d.speculation is None),
        *(round(w.isl), round(w.osl), w.concurrency, w.request_rate, w.mode),
    )
