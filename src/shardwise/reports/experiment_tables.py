"""Tables of a measured study: cells with predictions, errors, claims, time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shardwise import metrics
from shardwise.evidence.record import Evidence, Interval
from shardwise.experiment.correct import Compared
from shardwise.experiment.outcome import Outcome
from shardwise.experiment.pace import drift
from shardwise.reports.cells import BATCH, interval_cell, sections
from shardwise.reports.numbers import MISSING, number, percent, point_spread, scale_for
from shardwise.reports.table import INTERVALS, Cell, Column, Table, Tone, text_cell

SHOWN = (metrics.E2E, metrics.TTFT, metrics.TPOT, metrics.OUTPUT_THROUGHPUT)
SHOWN_DRIFT = 0.1  #: drift of a machine's speed; a quiet machine has less
SPLIT = Column("split", "split", align="left")


def experiment_tables(found: Outcome) -> list[Table]:
    """Return every table, the comparison last, because the last one is visible first in a
    terminal."""
    tables = [claims_table(found)] if found.claims else []
    if found.corrected.scores:
        tables.append(scores_table(found))
    if found.corrected.compared:
        tables.append(comparison_table(found))
    return tables


def comparison_table(found: Outcome) -> Table:
    """Return a row per cell: the measurement, and prediction errors before and after
    calibration."""
    items = found.corrected.compared
    columns, bodies = [], []
    for metric in SHOWN:
        values = [c.measured.metrics.get(metric.name) if c.usable else None for c in items]
        scale = scale_for(values, metric.unit)
        follows = metric in (metrics.E2E, metrics.OUTPUT_THROUGHPUT)  # from TTFT and TPOT
        columns += [
            Column(metric.label, metric.name, scale.unit, optional=2 * follows),
            Column("before", f"{metric.name}_before_pct", "%", optional=3),
            Column("after", f"{metric.name}_after_pct", "%", optional=2 * follows),
        ]
        bodies += [
            [interval_cell(value, scale, "reference") for value in values],
            [_error_cell(c, c.before, metric.name) for c in items],
            [_error_cell(c, c.after, metric.name) for c in items],
        ]
    rows = [
        (
            text_cell(c.cell.split.label),
            text_cell(c.cell.split.threads or MISSING),
            text_cell(c.cell.workload.mode.replace("_", " ")),
            text_cell(c.cell.workload.concurrency),
            *(body[i] for body in bodies),
            text_cell(_remarks(c)),
        )
        for i, c in enumerate(items)
    ]
    return Table(
        name="comparison",
        title=f"{found.model} {found.weight_dtype} with {found.engine}, {found.isl} in / "
        f"{found.osl} out: measured here, with prediction errors",
        columns=(
            SPLIT,
            Column("threads", "threads_per_rank", "a rank", optional=4),
            Column("mode", "mode", align="left"),
            BATCH,
            *columns,
            _REMARKS,
        ),
        sections=sections(rows),
        notes=(
            "measured: 80 % interval from repeats; before: error of the prediction made before "
            "the run; after: calibrated on the cells without *",
            "* held out of the calibration; ! outside the predicted 80 % interval",
            "closed loop: lengths from half to one and a half times the mean; static batch: all "
            "equal",
        ),
    )


_REMARKS = Column("", "remarks", align="left")


def _error_cell(c: Compared, made: Evidence | None, metric: str) -> Cell:
    measured = c.measured.metrics.get(metric)
    if made is None or measured is None or not c.usable:
        return Cell(MISSING)
    p = made.metrics[metric]
    error = metrics.percent_change(measured.value, p.value)
    inside = p.lo <= measured.value <= p.hi
    return Cell(percent(error, 0) + ("" if inside else "!"), error, "plain" if inside else "worse")


def _remarks(c: Compared) -> str:
    if not c.usable:
        return "client-bound"
    if c.before is None:
        return "more ranks than cores"
    moved = drift(c.paces)
    drifted = f"pace drifted {100 * moved:.0f} %" if moved > SHOWN_DRIFT else ""
    return " ".join(filter(None, ("*" if c.judged else "", drifted)))


def scores_table(found: Outcome) -> Table:
    """Return errors on the held-out cells, before and after calibration."""
    rows = tuple(
        (
            text_cell(metrics.ALL[s.metric].label),
            text_cell(s.n),
            Cell(percent(s.before_pct, signed=False), s.before_pct),
            Cell(percent(s.after_pct, signed=False), s.after_pct, "strong"),
            text_cell(f"{s.before_inside} of {s.n}"),
            text_cell(f"{s.after_inside} of {s.n}"),
            text_cell(f"{100 * s.share:.0f}"),
        )
        for s in found.corrected.scores
    )
    used = sum(not c.judged and c.usable for c in found.corrected.compared)
    return Table(
        name="errors",
        title=f"Mean error on the held-out cells, before and after calibration on {used} others",
        columns=(
            Column("metric", "metric", align="left"),
            Column("n", "n"),
            Column("before", "before_pct", "%"),
            Column("after", "after_pct", "%"),
            Column("in interval", "before_inside", "before"),
            Column("in interval", "after_inside", "after"),
            Column("applied", "share_pct", "%"),
        ),
        sections=(rows,),
        notes=(
            "mean of |predicted / measured - 1|; the held-out cells were chosen before the run",
            "applied: share of the correction that leave-one-out validation on the calibration "
            "cells supports",
        ),
    )


def claims_table(found: Outcome) -> Table:
    """Return the study's claims on this machine, each with its interval and verdict."""
    tones: dict[str, Tone] = {"holds": "better", "does not hold": "worse"}
    rows = [
        (
            text_cell(c.text),
            text_cell(c.where),
            text_cell(c.batch),
            _claimed_cell(c.value),
            text_cell(c.unit),
            text_cell(MISSING if math.isnan(c.drift) else f"{100 * c.drift:.0f}"),
            text_cell(c.verdict, tones.get(c.verdict, "unclear")),
        )
        for c in found.claims
    ]
    return Table(
        name="claims",
        title=f"The published study's claims, on {found.hardware}",
        columns=(
            Column("claim", "claim", align="left"),
            Column("splits", "splits", align="left"),
            BATCH,
            Column("measured", "value"),
            Column("", "unit", align="left"),
            Column("drift", "pace_drift_pct", "%"),
            Column("verdict", "verdict", align="left"),
        ),
        sections=sections(rows),
        notes=(
            INTERVALS,
            "not resolved: the interval is too wide to decide; points: percent gained minus "
            "percent cut",
            "drift: change of the machine's speed over the compared runs; not judged: the drift is "
            "as large as the effect",
            "→: after / before, with the same number of requests in flight on the whole machine",
        ),
    )


def _claimed_cell(value: Interval) -> Cell:
    bounds = f"({number(value.lo, 2)}…{number(value.hi, 2)})"
    return Cell(number(value.value, 2), value, detail=bounds, spread=point_spread(value, 2))


def time_lines(found: Outcome) -> Sequence[str]:
    """Report how the run spent its time, and which cells did not fit the budget."""
    if "measuring" not in found.spent.by:
        return ["every cell was already measured"]
    parts = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in found.spent.by.items())
    lines = [f"{found.spent.total_s:.0f} s: {parts}, idle {found.spent.idle_pct:.1f} %"]
    lines += [f"did not fit the budget: {label}" for label in found.dropped]
    return lines
