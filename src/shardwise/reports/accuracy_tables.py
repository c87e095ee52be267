"""Tables of accuracy: errors by group, and whether the best TP is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shardwise import metrics
from shardwise.perfmodel.profiles import Error
from shardwise.perfmodel.validation import Choice, Score
from shardwise.reports.table import Cell, Column, Table, Tone, text_cell

_PERCENT = "%"
NOMINAL_COVERAGE = (75.0, 88.0)


def _number(value: float, signed: bool = False) -> Cell:
    return Cell(f"{value:+z.1f}" if signed else f"{value:.1f}", value)


def score_table(scores: Sequence[Score], grouped_by: str) -> Table:
    """Return errors of predictions by group and metric."""
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    for s in scores:
        sections.setdefault(s.group, []).append(
            (
                text_cell(s.group, "strong"),
                text_cell(metrics.ALL[s.metric].label),
                Cell(f"{s.rows}", float(s.rows)),
                _number(s.mean_error_pct),
                _number(s.bias_pct, signed=True),
                _number(s.coverage_pct),
            )
        )
    return Table(
        name=f"errors_by_{grouped_by.replace(' ', '_')}",
        title=f"Predictions and measurements, by {grouped_by}",
        columns=(
            Column(grouped_by, "group", align="left"),
            Column("metric", "metric", align="left"),
            Column("n", "rows"),
            Column("mean error", "mean_error_pct", _PERCENT),
            Column("bias", "bias_pct", _PERCENT),
            Column("in interval", "coverage_pct", _PERCENT),
        ),
        sections=tuple(tuple(rows) for rows in sections.values()),
        notes=(
            "mean error: of |predicted / measured - 1|; in interval: the target is 80 %",
            "E2E latency and throughput of closed loops are computed from measured TTFT and TPOT",
        ),
    )


def choice_table(choices: Sequence[Choice]) -> Table:
    """Return how often the best layout was found."""
    rows = tuple(
        (
            text_cell(c.question),
            Cell(f"{c.cases}", float(c.cases)),
            Cell(f"{c.agree}", float(c.agree)),
            _number(100 * c.agree / c.cases),
            _number(c.regret_pct),
        )
        for c in choices
    )
    return Table(
        name="choice_of_tp",
        title="Is the best layout found?",
        columns=(
            Column("best by", "question", align="left"),
            Column("n", "cases"),
            Column("agree", "agree"),
            Column("agree", "agree_pct", _PERCENT),
            Column("regret", "regret_pct", _PERCENT),
        ),
        sections=(rows,),
        notes=("regret: measured loss of the layout chosen by prediction against the best one",),
    )


def calibration_table(before_pct: Mapping[str, float], after_pct: Mapping[str, float]) -> Table:
    """Return cross-validated mean errors of a profile before and after your rows, by metric."""
    rows = tuple(
        (
            text_cell(metrics.ALL[name].label, "strong"),
            _number(before),
            Cell(f"{after_pct[name]:.1f}", after_pct[name], tone),
            text_cell(verdict),
        )
        for name, before in before_pct.items()
        for verdict, tone in [_changed(before, after_pct[name])]
    )
    return Table(
        name="calibration",
        title="Mean error on your rows, cross-validated",
        columns=(
            Column("metric", "metric", align="left"),
            Column("before", "before_pct", _PERCENT),
            Column("after", "after_pct", _PERCENT),
            Column("is", "verdict", align="left"),
        ),
        sections=(rows,),
    )


def _changed(before_pct: float, after_pct: float) -> tuple[str, Tone]:
    """Return the verdict on an error to the digit that is shown, and its tone."""
    change = round(after_pct, 1) - round(before_pct, 1)
    if change == 0:
        return "same", "plain"
    return ("✗ worse", "worse") if change > 0 else ("✓ better", "better")


def held_out_table(errors: Sequence[Error]) -> Table:
    """Return a profile's errors on the rows of its fit and on held-out rows, one TP at a time."""
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    for e in (*errors, *_over_all(errors)):
        left = e.held_out_pct
        group = f"{e.gpu} {e.engine}".strip()
        sections.setdefault(group, []).append(
            (
                text_cell(group, "strong"),
                text_cell(metrics.ALL[e.metric].label),
                Cell(f"{e.rows}", float(e.rows)),
                _number(e.fitted_pct),
                _number(left) if left is not None else text_cell("–"),
                _number(e.covered_pct) if e.covered_pct is not None else text_cell("–"),
            )
        )
    return Table(
        name="held_out",
        title="Mean error of the fit, and with a TP left out of it",
        columns=(
            Column("GPU and engine", "pair", align="left"),
            Column("metric", "metric", align="left"),
            Column("n", "rows"),
            Column("fitted", "fitted_pct", _PERCENT),
            Column("left out", "held_out_pct", _PERCENT),
            Column("in interval", "covered_pct", _PERCENT),
        ),
        sections=tuple(tuple(rows) for rows in sections.values()),
        notes=(
            "–: measured at only one or two TPs, or without TTFT and TPOT",
            "in interval: held-out rows within 80 % of the errors of the other held-out TPs "
            "(MI300X: of other held-out rows); the target is 80 %",
        ),
    )


def _over_all(errors: Sequence[Error]) -> list[Error]:
    """Return mean errors over all rows with a TP left out, for several pairs."""
    found = []
    for metric in dict.fromkeys(e.metric for e in errors):
        kept = [(e, e.held_out_pct) for e in errors if e.metric == metric]
        held = [(e, left) for e, left in kept if left is not None]
        if len(held) < 2:
            continue
        n = sum(e.rows for e, _ in held)
        fitted = sum(e.rows * e.fitted_pct for e, _ in held) / n
        left_out = sum(e.rows * left for e, left in held) / n
        found.append(Error("all of these", "", metric, n, fitted, left_out))
    return found
