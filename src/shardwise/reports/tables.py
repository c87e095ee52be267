"""Tables of a study: the grid, its TP steps, comparison with published steps, break-even."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from shardwise import metrics
from shardwise.analysis.breakeven import BreakEven, KeptLatency, communication_share
from shardwise.analysis.grid import Grid
from shardwise.analysis.transitions import Step, StepPair, mean_absolute_error_points
from shardwise.evidence.record import Evidence
from shardwise.reports.cells import (
    BATCH,
    MARKS,
    TP,
    at_least_one,
    lengths,
    metric_column,
    sections,
    source_notes,
    step_cell,
    step_label,
)
from shardwise.reports.numbers import MISSING, percent
from shardwise.reports.table import INTERVALS, Cell, Column, Table, text_cell

STUDIED = (
    metrics.E2E,
    metrics.TTFT,
    metrics.TPOT,
    metrics.OUTPUT_THROUGHPUT,
    metrics.TOTAL_THROUGHPUT,
)


def study_table(grid: Grid) -> Table:
    """Return every cell of `grid`: latency and throughput with intervals, and the communication
    share."""
    items = list(grid.values())
    measured = [
        metric_column(m, [item.metrics.get(m.name) for item in items])
        for m in STUDIED
        if any(m.name in item.metrics for item in items)
    ]
    shares = [communication_share(item) for item in items]
    rows = [
        (
            text_cell(item.deployment.tp_size, "strong"),
            text_cell(item.workload.concurrency),
            *(cells[i] for _, cells in measured),
            Cell(percent(None if share is None else share * 100, signed=False), share),
        )
        for i, (item, share) in enumerate(zip(items, shares, strict=True))
    ]
    d, load = items[0].deployment, items[0].workload
    return Table(
        name="study",
        title=f"{d.model} {d.dtypes.weight} on {d.gpu}, one replica, "
        f"{lengths(load)} ({items[0].source.kind})",
        columns=(
            TP,
            BATCH,
            *(
                replace(column, optional=2 * (column.name == metrics.TOTAL_THROUGHPUT.name))
                for column, _ in measured
            ),
            Column(
                "comm. share",
                "communication_share",
                "%",
                optional=1,
                note="comm. share: share of a request's time spent on communication between GPUs",
            ),
        ),
        sections=sections(rows),
        notes=(
            INTERVALS,
            *source_notes(item.source for item in items),
        ),
    )


def evidence_table(items: Sequence[Evidence]) -> Table:
    """Return one row per result: deployment, load, latency and throughput of one replica."""
    items = at_least_one(items, "results")
    shown = [
        metric_column(m, [item.metrics.get(m.name) for item in items])
        for m in STUDIED
        if any(m.name in item.metrics for item in items)
    ]
    rows = tuple(
        (
            text_cell(item.deployment.model, "strong"),
            text_cell(item.deployment.gpu),
            text_cell(item.deployment.layout.name),
            text_cell(item.deployment.dtypes.weight),
            text_cell(item.workload.concurrency),
            *(cells[i] for _, cells in shown),
        )
        for i, item in enumerate(items)
    )
    optional = {metrics.TOTAL_THROUGHPUT.name: 2, metrics.E2E.name: 1}
    return Table(
        name="evidence",
        title=f"One replica under load ({items[0].source.kind})",
        columns=(
            Column("model", "model", align="left"),
            Column("GPU", "gpu", align="left"),
            Column("layout", "layout", align="left"),
            Column("dtype", "weight_dtype", align="left", optional=3),
            BATCH,
            *(replace(column, optional=optional.get(column.name, 0)) for column, _ in shown),
        ),
        sections=(rows,),
        notes=(INTERVALS, *source_notes(item.source for item in items)),
    )


def rows_table(header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    """Return rows of a CSV file; the question and predicted latencies are always shown."""
    kept = ("model_id", "gpu_id", "tp", "concurrency", "pred_ttft_ms", "pred_tpot_ms")
    numeric = {
        name
        for name in header
        if any(row.get(name) for row in rows) and all(_is_number(row.get(name)) for row in rows)
    }

    def cell(row: Mapping[str, str], name: str) -> Cell:
        text = row.get(name) or ""
        if name not in numeric:
            return text_cell(text)
        return Cell(text or MISSING, float(text) if text else None)

    return Table(
        name="rows",
        title=f"{len(rows)} rows",
        columns=tuple(
            Column(
                name,
                name,
                align="right" if name in numeric else "left",
                optional=0 if name in kept else 1 + i,
            )
            for i, name in enumerate(header)
        ),
        sections=(tuple(tuple(cell(row, name) for name in header) for row in rows),),
    )


def _is_number(text: str | None) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False


def transitions_table(steps: Sequence[Step]) -> Table:
    """Return the changes like the published study's Table 1: a row per metric and batch, a column
    per step."""
    steps = at_least_one(steps, "TP steps")
    pairs = {(s.from_tp, s.to_tp) for s in steps}
    ordered = [
        *sorted(p for p in pairs if p[0] < p[1]),
        *sorted((p for p in pairs if p[0] > p[1]), reverse=True),
    ]
    by_key = {(s.metric, s.concurrency, s.from_tp, s.to_tp): s for s in steps}
    rows = [
        (
            text_cell(metrics.ALL[metric].label),
            text_cell(concurrency),
            *(step_cell(by_key.get((metric, concurrency, *pair))) for pair in ordered),
        )
        for metric, concurrency in dict.fromkeys((s.metric, s.concurrency) for s in steps)
    ]
    kinds = " and ".join(dict.fromkeys(s.source.kind for s in steps))
    return Table(
        name="transitions",
        title=f"Change per TP step, % ({kinds})",
        columns=(
            Column("metric", "metric", align="left"),
            BATCH,
            *(
                Column(step_label(a, b), f"tp{a}_to_tp{b}_pct", optional=int(a > b))
                for a, b in ordered
            ),
        ),
        sections=sections(rows),
        notes=(
            MARKS,
            *([INTERVALS] if kinds != "published" else []),
            *source_notes(s.source for s in steps),
        ),
    )


def comparison_table(pairs: Sequence[StepPair], remark: str = "") -> Table:
    """Return the steps of two sources side by side, with the difference in points.

    `remark` is a note on what else differs between them.
    """
    pairs = at_least_one(pairs, "steps that both sources have")
    ours, reference = pairs[0].ours.source, pairs[0].reference.source
    by_metric: dict[str, list[StepPair]] = {}
    for pair in pairs:
        by_metric.setdefault(pair.ours.metric, []).append(pair)
    rows = [
        (
            text_cell(metrics.ALL[metric].label),
            text_cell(p.ours.concurrency),
            text_cell(step_label(p.ours.from_tp, p.ours.to_tp)),
            step_cell(p.ours),
            Cell(percent(p.reference.change_pct.value), p.reference.change_pct, "reference"),
            Cell(percent(p.difference_points), p.difference_points),
        )
        for metric, group in by_metric.items()
        for p in group
    ]
    errors = [
        f"mean absolute error, {metrics.ALL[metric].label}, steps {direction}: "
        f"{mean_absolute_error_points(some):.1f} points (n={len(some)})"
        for metric, group in by_metric.items()
        for direction, is_up in (("up", True), ("down", False))
        if (some := [p for p in group if p.ours.is_up == is_up])
    ]
    return Table(
        name="comparison",
        title=f"Change per TP step: {ours.kind} and {reference.kind}",
        columns=(
            Column("metric", "metric", align="left"),
            BATCH,
            Column("step", "step", align="left"),
            Column(ours.kind, f"{ours.kind}_pct", "%"),
            Column(reference.kind, f"{reference.kind}_pct", "%"),
            Column("apart", "difference_points", "points"),
        ),
        sections=sections(rows),
        notes=(
            *errors,
            *([remark] if remark else []),
            MARKS,
            INTERVALS,
            *source_notes([ours, reference]),
        ),
    )


def kept_latency_table(kept: Sequence[KeptLatency]) -> Table:
    """Return the batch with the same latency at a lower TP."""
    kept = at_least_one(kept, "steps to a smaller TP")
    metric = metrics.ALL[kept[0].metric]
    latency, latencies = metric_column(metric, [k.latency for k in kept], title="to keep")
    rows = [
        (
            text_cell(step_label(k.from_tp, k.to_tp)),
            text_cell(k.concurrency),
            cell,
            Cell(_kept_batch(k), k.batch),
        )
        for k, cell in zip(kept, latencies, strict=True)
    ]
    return Table(
        name="kept_latency",
        title=f"Batch with the same {metric.label} at a lower TP",
        columns=(
            Column("step", "step", align="left"),
            Column("batch before", "concurrency"),
            latency,
            Column("batch after", "batch"),
        ),
        sections=sections(rows),
        notes=("none: even the smallest batch is slower",),
    )


def _kept_batch(kept: KeptLatency) -> str:
    if kept.batch is None:
        return "none"
    least = "≥ " if kept.bound == "at least" else ""
    return f"{least}{math.floor(kept.batch)}"


def breakeven_table(breakevens: Sequence[BreakEven]) -> Table:
    """Return the TP beyond which a step gains too little, per batch."""
    first = at_least_one(breakevens, "steps to a larger TP")[0]
    rows = tuple(
        (
            text_cell(b.concurrency),
            text_cell(b.tp_size, "strong"),
            Cell(percent(b.next_gain_pct), b.next_gain_pct),
        )
        for b in breakevens
    )
    return Table(
        name="breakeven",
        title=f"TP beyond which a step improves {metrics.ALL[first.metric].label} by less than "
        f"{first.min_gain_pct:g} %",
        columns=(BATCH, TP, Column("next step gains", "next_gain_pct", "%")),
        sections=(rows,),
        notes=(f"{MISSING}: every step gains more",),
    )
