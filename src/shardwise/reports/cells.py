"""Cells and columns that several tables share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeVar

from shardwise import metrics
from shardwise.errors import InputError
from shardwise.evidence.record import Interval, Source
from shardwise.reports.numbers import (
    MISSING,
    number,
    percent,
    percent_interval,
    scale_for,
    value_and_bounds,
)
from shardwise.reports.table import Cell, Column, Row

if TYPE_CHECKING:
    from shardwise.study.transitions import Step

MARKS: Final = "▲ up ▼ down; ✓ better ✗ worse; ? no interval, or it includes no change"
TP: Final = Column("TP", "tp_size")
BATCH: Final = Column("batch", "concurrency")


T = TypeVar("T")


def at_least_one(items: Iterable[T], what: str) -> Sequence[T]:
    """`items` as a sequence. Raises InputError where there is none, as there is nothing to show."""
    found = tuple(items)
    if not found:
        raise InputError(f"no {what} to show", "at least one is needed")
    return found


def metric_column(
    metric: metrics.Metric, values: Sequence[Interval | float | None], title: str = ""
) -> tuple[Column, tuple[Cell, ...]]:
    """A column for `metric` and its cells, all in the one unit that suits the largest value."""
    return scaled_column(Column(title or metric.label, metric.name, metric.unit), values)


def scaled_column(
    column: Column, values: Sequence[Interval | float | None]
) -> tuple[Column, tuple[Cell, ...]]:
    """`column` (its unit as in code) with the unit that suits `values`, and their cells."""
    scale = scale_for(values, column.unit)
    cells = []
    for value in values:
        if isinstance(value, Interval):
            text, bounds = value_and_bounds(value, scale)
            cells.append(Cell(text, value, detail=bounds))
        else:
            shown = MISSING if value is None else number(value / scale.factor)
            cells.append(Cell(shown, value))
    return Column(column.title, column.name, scale.unit, column.align), tuple(cells)


def step_label(from_tp: int, to_tp: int) -> str:
    return f"TP{from_tp}→{to_tp}"


def step_cell(step: Step | None) -> Cell:
    """A percent change with its direction and verdict, its interval in the detail.

    A published change has no interval, only a last printed digit, which is not repeated here.
    """
    if step is None:
        return Cell(MISSING)
    change = step.change_pct
    arrow = "▲" if change.value > 0 else "▼" if change.value < 0 else " "
    mark = {"better": "✓", "worse": "✗", "same": " "}[step.verdict] if step.is_clear else "?"
    clear = step.is_clear and step.verdict != "same"
    return Cell(
        f"{percent(change.value)} {arrow}{mark}",
        change,
        tone=("better" if step.verdict == "better" else "worse") if clear else "unclear",
        detail="" if step.source.kind == "published" else percent_interval(change),
    )


def source_notes(sources: Iterable[Source]) -> tuple[str, ...]:
    """One line for each different source: its kind, name, date and remark."""
    return tuple(
        f"{s.kind}: {', '.join(part for part in (s.name, s.date, s.note) if part)}"
        for s in dict.fromkeys(sources)
    )


def sections(rows: Iterable[Row]) -> tuple[tuple[Row, ...], ...]:
    """`rows` grouped wherever the first cell changes."""
    return tuple(tuple(group) for _, group in groupby(rows, key=lambda row: row[0].text))
