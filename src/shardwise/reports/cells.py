"""Cells and columns shared by several tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec.structs import replace

from shardwise import metrics
from shardwise.errors import InputError
from shardwise.evidence.record import Interval, Source
from shardwise.reports.numbers import (
    MISSING,
    Scale,
    number,
    percent,
    percent_interval,
    point_spread,
    scale_for,
    spread,
    value_and_bounds,
)
from shardwise.reports.table import Cell, Column, Row, Tone

if TYPE_CHECKING:
    from shardwise.analysis.layout_steps import LayoutStep
    from shardwise.analysis.transitions import Step

MARKS: Final = "▲ up ▼ down; ✓ better ✗ worse; ? no interval, or it includes zero"
TP: Final = Column("TP", "tp_size")
BATCH: Final = Column("batch", "concurrency")


T = TypeVar("T")


def at_least_one(items: Iterable[T], what: str) -> Sequence[T]:
    """Return `items` as a sequence. Raises InputError if it is empty."""
    found = tuple(items)
    if not found:
        raise InputError(f"no {what} to show", "at least one is needed")
    return found


class Lengths(Protocol):
    """Anything with request lengths: a workload or a demand."""

    @property
    def isl(self) -> float:
        """Input tokens per request."""

    @property
    def osl(self) -> float:
        """Output tokens per request."""

    @property
    def cached_tokens(self) -> float:
        """Prompt tokens found in the prefix cache."""


def lengths(load: Lengths) -> str:
    """Format the input and output tokens of a request: "4096 in (3072 cached) / 512 out"."""
    cached = f" ({load.cached_tokens:g} cached)" if load.cached_tokens else ""
    return f"{load.isl:g} in{cached} / {load.osl:g} out"


def metric_column(
    metric: metrics.Metric, values: Sequence[Interval | float | None], title: str = ""
) -> tuple[Column, tuple[Cell, ...]]:
    """Return a column for `metric` and its cells, in the unit that suits the largest value."""
    return scaled_column(Column(title or metric.label, metric.name, metric.unit), values)


def scaled_column(
    column: Column, values: Sequence[Interval | float | None]
) -> tuple[Column, tuple[Cell, ...]]:
    """Return `column` (its unit as in code) with the unit that suits `values`, and their cells."""
    scale = scale_for(values, column.unit)
    cells = []
    for value in values:
        if isinstance(value, Interval):
            cells.append(interval_cell(value, scale))
        else:
            shown = MISSING if value is None else number(value / scale.factor)
            cells.append(Cell(shown, value))
    return replace(column, unit=scale.unit), tuple(cells)


def interval_cell(value: Interval | None, scale: Scale | None = None, tone: Tone = "plain") -> Cell:
    """Return a value with its bounds, or with its relative spread; a dash for none."""
    text, bounds = value_and_bounds(value, scale)
    return Cell(text, value, tone, bounds, spread(value))


def step_label(from_tp: int, to_tp: int) -> str:
    """`TP1→2`."""
    return f"TP{from_tp}→{to_tp}"


def step_cell(step: Step | LayoutStep | None) -> Cell:
    """Return a percent change with its direction and verdict, and its interval in the detail.

    A published change has no interval, only rounding, which is not shown.
    """
    if step is None:
        return Cell(MISSING)
    change = step.change_pct
    arrow = "▲" if change.value > 0 else "▼" if change.value < 0 else " "
    mark = {"better": "✓", "worse": "✗", "same": " "}[step.verdict] if step.is_clear else "?"
    clear = step.is_clear and step.verdict != "same"
    text = f"{percent(change.value)} {arrow}{mark}"
    tone: Tone = ("better" if step.verdict == "better" else "worse") if clear else "unclear"
    if step.source.kind == "published":
        return Cell(text, change, tone)
    return change_cell(change, text, tone)


def change_cell(change_pct: Interval, text: str = "", tone: Tone = "plain") -> Cell:
    """Return a change in percent with its bounds, or with its spread in points."""
    shown = text or percent(change_pct.value)
    return Cell(shown, change_pct, tone, percent_interval(change_pct), point_spread(change_pct))


def source_notes(sources: Iterable[Source]) -> tuple[str, ...]:
    """Return one line per source: its kind, name, date and note."""
    return tuple(
        f"{s.kind}: {', '.join(part for part in (s.name, s.date, s.note) if part)}"
        for s in dict.fromkeys(sources)
    )


def sections(rows: Iterable[Row]) -> tuple[tuple[Row, ...], ...]:
    """Group `rows` by their first cell."""
    return tuple(tuple(group) for _, group in groupby(rows, key=lambda row: row[0].text))
