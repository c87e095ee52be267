"""Tables and JSON document of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from shardwise import metrics
from shardwise.analysis.comparison import COMPARED, Change, Comparison, Load
from shardwise.evidence.measured import count_reasons
from shardwise.reports.cells import change_cell, scaled_column
from shardwise.reports.numbers import MISSING, percent, percent_interval
from shardwise.reports.runs import Run
from shardwise.reports.table import INTERVALS, Cell, Column, Table, Tone, text_cell

SEEN: Final = (
    f"seen from: smallest slowdown that repeats like these detect in 80 % of attempts; "
    f"{MISSING}: a value has no interval"
)
RESULT: Final = (
    Column("B against A", "change_pct", "%"),
    Column("seen from", "smallest_seen_pct", "%"),
    Column("B is", "verdict", align="left"),
)

TONES: Final[dict[str, Tone]] = {"slower": "worse", "faster": "better"}


def overall_table(comparison: Comparison, a: Run, b: Run) -> Table:
    """Return a row per metric: the geometric mean over all cells, and the verdict."""
    rows = tuple(
        (
            text_cell(metrics.ALL[c.metric].label, "strong"),
            text_cell(c.change_pct.n),
            *_result(c),
        )
        for c in comparison.overall
    )
    return Table(
        name="comparison_overall",
        title=f"All cells: B = {b.name} against A = {a.name}",
        columns=(
            Column("metric", "metric", align="left"),
            Column("cells", "cells"),
            *RESULT,
        ),
        sections=(rows,),
        notes=(INTERVALS, SEEN, *_remarks(comparison, a, b)),
    )


def cell_tables(comparison: Comparison) -> list[Table]:
    """Return a table per metric: a row per cell, with both values."""
    return [
        _cell_table(metric.name, [c for c in comparison.cells if c.metric == metric.name])
        for metric in COMPARED
        if any(c.metric == metric.name for c in comparison.cells)
    ]


def comparison_document(comparison: Comparison, a: Run, b: Run) -> dict[str, Any]:
    """Return the comparison for JSON, with the verdicts."""
    return {
        "a": _about(a),
        "b": _about(b),
        "differing": dict(comparison.differing),
        "overall": [_plain(c) for c in comparison.overall],
        "cells": [_plain(c) for c in comparison.cells],
        "only_a": comparison.only_a,
        "only_b": comparison.only_b,
    }


def change_line(change: Change) -> str:
    """Describe one change in a line."""
    slower = change.slower_pct
    where = "all cells" if change.load is None else cell_name(change.load)
    by = f"{percent(slower.value, signed=False)} % {percent_interval(slower)}".rstrip()
    return f"{metrics.ALL[change.metric].label}, {where}: slower by {by}"


def cell_name(load: Load) -> str:
    """`2 x TP4, 16 in flight, 512/128`: a short description of a load."""
    copies = f"{load.replicas} x " if load.replicas > 1 else ""
    at = (
        f"{load.concurrency} in flight"
        if load.request_rate is None
        else f"{load.request_rate:g} requests/s"
    )
    return f"{copies}{load.layout}, {at}, {load.isl:g}/{load.osl:g}"


def _cell_table(name: str, changes: Sequence[Change]) -> Table:
    metric = metrics.ALL[name]
    column, cells = scaled_column(
        Column("", "", metric.unit), [v for c in changes for v in (c.a, c.b)]
    )
    rows = tuple(
        (
            text_cell("" if change.load is None else cell_name(change.load)),
            Cell(a.text, a.value),
            Cell(b.text, b.value),
            *_result(change),
        )
        for change, a, b in zip(changes, cells[::2], cells[1::2], strict=True)
    )
    return Table(
        name=f"comparison_{name}",
        title=f"{metric.label} of each cell",
        columns=(
            Column("cell", "cell", align="left"),
            Column("A", "a", column.unit),
            Column("B", "b", column.unit),
            *RESULT,
        ),
        sections=(rows,),
    )


def _result(change: Change) -> tuple[Cell, Cell, Cell]:
    verdict = change.verdict
    seen = change.smallest_seen_pct
    return (
        change_cell(change.change_pct),
        Cell(MISSING if seen is None else percent(seen, signed=False), seen),
        text_cell(verdict, TONES.get(verdict, "unclear")),
    )


def _remarks(comparison: Comparison, a: Run, b: Run) -> Iterable[str]:
    for name, (in_a, in_b) in comparison.differing.items():
        yield f"{name}: {in_a} in A, {in_b} in B"
    for library in sorted({*a.versions, *b.versions}):
        before, after = a.versions.get(library, MISSING), b.versions.get(library, MISSING)
        if before != after:
            yield f"{library}: {before} in A, {after} in B"
    for name, loads in (("A", comparison.only_a), ("B", comparison.only_b)):
        if loads:
            yield f"only in {name}, not compared: {len(loads)} cells, e.g. {cell_name(loads[0])}"
    for name, run in (("A", a), ("B", b)):
        if run.left_out:
            yield f"skipped in {name}: {run.left_out} cells ({count_reasons(run.skipped)})"


def _about(run: Run) -> dict[str, Any]:
    return {"name": run.name, "versions": dict(run.versions), "left_out": run.left_out}


def _plain(change: Change) -> dict[str, Any]:
    return {
        "load": change.load,
        "metric": change.metric,
        "a": change.a,
        "b": change.b,
        "change_pct": change.change_pct,
        "slower_pct": change.slower_pct,
        "smallest_seen_pct": change.smallest_seen_pct,
        "verdict": change.verdict,
    }
