"""Table of the time of a request by component, as shares."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise import metrics
from shardwise.evidence.record import Evidence
from shardwise.reports.cells import BATCH, TP, at_least_one, sections
from shardwise.reports.numbers import number, percent
from shardwise.reports.table import Cell, Column, Table, text_cell


def time_table(items: Sequence[Evidence]) -> Table:
    """Return a row per batch and TP: seconds of a request, and the share of each component."""
    known = at_least_one([item for item in items if item.breakdown], "results with a breakdown")
    causes = list(dict.fromkeys(cause for item in known for cause in item.breakdown))
    rows = [
        (
            text_cell(item.workload.concurrency),
            text_cell(item.deployment.tp_size, "strong"),
            Cell(number(total), total),
            *(_share(item.breakdown.get(cause, 0.0) / total) for cause in causes),
        )
        for item in sorted(known, key=lambda i: (i.workload.concurrency, i.deployment.tp_size))
        for total in [sum(item.breakdown.values())]
    ]
    return Table(
        name="time_breakdown",
        title=f"Where the time of a request goes ({known[0].source.kind})",
        columns=(
            BATCH,
            TP,
            Column(metrics.E2E.label, "seconds", "s"),
            *(Column(c.replace("_", " ").replace("kv", "KV"), f"{c}_share", "%") for c in causes),
        ),
        sections=sections(rows),
        bar="seconds",
    )


def _share(value: float) -> Cell:
    return Cell(percent(100 * value, signed=False), value)
