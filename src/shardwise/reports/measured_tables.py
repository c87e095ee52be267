"""Tables of measured cells: values with intervals and n, or why a value is missing."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise import metrics
from shardwise.evidence.measured import Measured
from shardwise.reports.cells import BATCH, TP, metric_column, sections
from shardwise.reports.numbers import MISSING
from shardwise.reports.table import INTERVALS, Cell, Column, Table, text_cell

SHOWN = (metrics.TTFT, metrics.TPOT, metrics.E2E, metrics.OUTPUT_THROUGHPUT)


def measured_table(cells: Sequence[Measured]) -> Table:
    """Return a row per cell. Client-bound cells show no values."""
    items = sorted(
        cells,
        key=lambda c: (
            c.evidence.deployment.tp_size,
            c.evidence.workload.request_rate or 0.0,
            c.evidence.workload.concurrency,
        ),
    )
    found = [c.evidence.metrics if c.usable else {} for c in items]
    columns = [metric_column(m, [each.get(m.name) for each in found]) for m in SHOWN]
    rates = any(c.evidence.workload.request_rate is not None for c in items)
    rows = [
        (
            text_cell(c.evidence.deployment.tp_size, "strong"),
            _offered(c, rates),
            *(body[i] for _, body in columns),
            text_cell(_samples(c)),
            text_cell(state(c), "plain" if c.usable else "worse"),
        )
        for i, c in enumerate(items)
    ]
    first = items[0].evidence
    d, w = first.deployment, first.workload
    return Table(
        name="measured",
        title=f"{d.model} on {d.gpu} with {d.engine}, {w.isl:g} in / {w.osl:g} out (measured)",
        columns=(
            TP,
            Column("rate", "request_rate", "requests/s") if rates else BATCH,
            *(column for column, _ in columns),
            Column("n", "n", optional=1),
            Column("remarks", "state", align="left"),
        ),
        sections=sections(rows),
        notes=(INTERVALS, "n: requests in the steady window, of all repeats", *_reasons(items)),
    )


def _offered(cell: Measured, rates: bool) -> Cell:
    workload = cell.evidence.workload
    if not rates:
        return text_cell(workload.concurrency)
    rate = workload.request_rate
    return text_cell(MISSING if rate is None else f"{rate:g}")


def _samples(cell: Measured) -> str:
    known = [interval.n for interval in cell.evidence.metrics.values()]
    return str(max(known)) if known else MISSING


def state(cell: Measured) -> str:
    """Return the reason against a cell's values; "" if there is none."""
    c = cell.conditions
    found = ["client-bound"] if cell.client_bound else []
    failures = c.get("failures") or {}
    found += [f"{count} {kind}" for kind, count in failures.items()]
    if not cell.evidence.metrics:
        found.append("no request completed")
    if c.get("interrupted"):
        found.append("interrupted")
    if c.get("oversubscribed"):
        found.append("more ranks than cores")
    return ", ".join(found)


def _reasons(cells: Sequence[Measured]) -> tuple[str, ...]:
    reasons = [str(r) for c in cells for r in c.conditions.get("client_reasons") or ()]
    remarks = [str(r) for c in cells for r in c.conditions.get("remarks") or ()]
    bound = [f"client-bound: {reason}" for reason in reasons]
    return tuple(dict.fromkeys([*bound, *remarks]))
