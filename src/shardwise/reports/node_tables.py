"""Tables of redundancy, and of predicted and measured values."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise import metrics
from shardwise.analysis.cost import NodeCost
from shardwise.analysis.measured_comparison import CellPair, mean_absolute_error_pct
from shardwise.reports.cells import BATCH, TP, at_least_one, interval_cell, sections
from shardwise.reports.numbers import number, percent, scale_for
from shardwise.reports.table import INTERVALS, Cell, Column, Table, text_cell


def redundancy_table(costs: Sequence[NodeCost]) -> Table:
    """Return the remaining capacity of a full node if one GPU fails: its replica stops."""
    full = at_least_one([c for c in costs if c.scenario == "full_node"], "full nodes")
    rows = [
        (
            text_cell(c.concurrency),
            text_cell(c.tp_size, "strong"),
            text_cell(c.copies),
            text_cell(c.gpus - c.copies * c.tp_size),
            interval_cell(c.output_tok_s),
            Cell(number(c.output_tok_s.value * share), c.output_tok_s.value * share),
            Cell(percent(100 * share, 0, signed=False), share),
        )
        for c in full
        for share in [(c.copies - 1) / c.copies]
    ]
    return Table(
        name="redundancy",
        title=f"Replicas on {full[0].gpus} GPUs, and capacity left if one GPU fails",
        columns=(
            BATCH,
            TP,
            Column("copies", "copies"),
            Column("GPUs idle", "idle_gpus"),
            Column("node", "output_tok_s", "tok/s"),
            Column("one GPU fails", "output_tok_s_one_gpu_lost", "tok/s"),
            Column("left", "capacity_left", "%"),
        ),
        sections=sections(rows),
        notes=("a replica stops with any of its GPUs; the others keep their batch",),
    )


def beside_table(pairs: Sequence[CellPair]) -> Table:
    """Return each metric, predicted and measured, with the error and whether the interval contains
    it."""
    pairs = at_least_one(pairs, "cells both predicted and measured")
    rows = []
    for p in sorted(pairs, key=lambda p: (p.metric, p.tp_size, p.concurrency)):
        unit = metrics.ALL[p.metric].unit
        scale = scale_for([p.measured, p.predicted], unit)
        rows.append(
            (
                text_cell(metrics.ALL[p.metric].label),
                text_cell(p.tp_size, "strong"),
                text_cell(p.concurrency),
                text_cell(scale.unit),
                interval_cell(p.predicted, scale),
                interval_cell(p.measured, scale, "reference"),
                text_cell(p.measured.n),
                Cell(percent(p.error_pct), p.error_pct),
                text_cell("✓ inside" if p.is_covered else "✗ outside"),
            )
        )
    inside = sum(p.is_covered for p in pairs)
    return Table(
        name="beside",
        title="Predicted and measured",
        columns=(
            Column("metric", "metric", align="left"),
            TP,
            BATCH,
            Column("unit", "unit", align="left"),
            Column("predicted", "predicted"),
            Column("measured", "measured"),
            Column("n", "n"),
            Column("error", "error_pct", "%"),
            Column("in the interval", "covered", align="left"),
        ),
        sections=sections(rows),
        notes=(
            *(
                f"mean absolute error, {metrics.ALL[m].label}: "
                f"{mean_absolute_error_pct(some):.1f} % (n={len(some)})"
                for m in dict.fromkeys(p.metric for p in pairs)
                for some in [[p for p in pairs if p.metric == m]]
            ),
            f"{inside} of {len(pairs)} measured values are in the predicted 80 % interval",
            INTERVALS,
        ),
    )
