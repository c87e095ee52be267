"""Tables of a study over layouts: values of each layout at each batch, and the steps between
them."""

from __future__ import annotations

from shardwise import metrics
from shardwise.analysis.layout_steps import PER_GPU, LayoutGrid, LayoutStep, value
from shardwise.reports.cells import (
    BATCH,
    MARKS,
    metric_column,
    scaled_column,
    sections,
    source_notes,
    step_cell,
)
from shardwise.reports.table import INTERVALS, Cell, Column, Row, Table, text_cell

SHOWN = ("ttft_s", "tpot_s", "e2e_latency_s")


def layout_tables(grid: LayoutGrid) -> list[Table]:
    """Return the cells, then the steps if there are any."""
    found = [layouts_table(grid)]
    return [*found, layout_steps_table(grid.steps)] if grid.steps else found


def layouts_table(grid: LayoutGrid) -> Table:
    """Return a row per batch and layout: latencies of a replica, tok/s per GPU, cache tokens."""
    items = sorted(grid.evidence, key=lambda e: e.workload.concurrency)
    columns: list[Column] = []
    cells: list[tuple[Cell, ...]] = []
    for name in SHOWN:
        column, made = metric_column(metrics.ALL[name], [e.metrics[name] for e in items])
        columns.append(column)
        cells.append(made)
    each = Column("output", "output_tok_s_per_gpu", "tok/s per GPU")
    column, made = scaled_column(each, [value(e, PER_GPU) for e in items])
    rows: list[Row] = [
        (
            text_cell(e.workload.concurrency),
            text_cell(e.deployment.layout.name, "strong"),
            text_cell(e.deployment.layout.replica_gpus),
            *(some[i] for some in cells),
            made[i],
            text_cell(f"{grid.cache_tokens[e.deployment.layout.name]:,}"),
        )
        for i, e in enumerate(items)
    ]
    return Table(
        name="layouts",
        title="Layouts at each batch of one replica",
        columns=(
            BATCH,
            Column("layout", "layout", align="left"),
            Column("GPUs", "replica_gpus", optional=2),
            *columns,
            column,
            Column("KV cache", "kv_cache_tokens", "tokens", optional=1),
        ),
        sections=sections(rows),
        notes=(INTERVALS, *source_notes(e.source for e in items)),
    )


def layout_steps_table(steps: tuple[LayoutStep, ...]) -> Table:
    """Return a row per batch and step between neighbouring layouts, with a column per metric."""
    names = list(dict.fromkeys(s.metric for s in steps))
    by_key = {(s.metric, s.concurrency, s.from_layout, s.to_layout): s for s in steps}
    keys = dict.fromkeys((s.concurrency, s.from_layout, s.to_layout) for s in steps)
    rows: list[Row] = [
        (
            text_cell(key[0]),
            text_cell(f"{key[1]} → {key[2]}"),
            *(step_cell(by_key.get((name, *key))) for name in names),
        )
        for key in keys
    ]
    return Table(
        name="layout_steps",
        title="Change per step between layouts, %",
        columns=(
            BATCH,
            Column("step", "step", align="left"),
            *(Column(_label(name), f"{name}_change_pct") for name in names),
        ),
        sections=sections(rows),
        notes=(MARKS, INTERVALS, *source_notes(s.source for s in steps)),
    )


def _label(metric: str) -> str:
    label = metrics.ALL[metric].label
    return f"{label} per GPU" if metric == PER_GPU else label
