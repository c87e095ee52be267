"""Tables for a decision: cost, claimed cost, audit, ranked plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from shardwise import metrics
from shardwise.evidence.record import Interval
from shardwise.hardware.catalogue import Price
from shardwise.reports.cells import (
    BATCH,
    TP,
    at_least_one,
    interval_cell,
    metric_column,
    scaled_column,
    sections,
    source_notes,
)
from shardwise.reports.numbers import MISSING, number, percent
from shardwise.reports.prices import price_note
from shardwise.reports.table import INTERVALS, Cell, Column, Row, Table, Tone, text_cell

if TYPE_CHECKING:
    from shardwise.analysis.audit import Finding
    from shardwise.analysis.claim import ClaimMatch
    from shardwise.analysis.cost import NodeCost, Scenario

SCENARIO_LABELS: Final[dict[Scenario, str]] = {
    "one_copy": "one replica",
    "full_node": "full node",
    "same_load": "same load",
}
CHECKED: Final = (
    "checks: Little's law, steps up and down are inverse, no scaling above linear, E2E latency = "
    "TTFT + TPOT x (osl - 1) if available"
)
Value = Interval | float | str | None


def cost_table(costs: Sequence[NodeCost], price: Price | None = None) -> Table:
    """Return the cost per million output tokens by scenario, batch and TP, relative to the largest
    TP.

    A note states `price`.
    """
    costs = at_least_one(costs, "costs")
    metric = metrics.ALL[costs[0].cost_metric]
    cost, cost_cells = metric_column(metric, [c.cost for c in costs])
    throughput, throughput_cells = metric_column(
        metrics.OUTPUT_THROUGHPUT, [c.output_tok_s for c in costs]
    )
    latency, latency_cells = metric_column(metrics.E2E, [c.e2e_latency_s for c in costs])
    rows = [
        (
            text_cell(SCENARIO_LABELS[c.scenario]),
            text_cell(c.concurrency),
            text_cell(c.tp_size, "strong"),
            text_cell(c.copies),
            cost_cells[i],
            throughput_cells[i],
            latency_cells[i],
            *_relative_cells(c),
        )
        for i, c in enumerate(costs)
    ]
    largest = max(c.tp_size for c in costs)
    incomplete = any(c.relative is None for c in costs)
    return Table(
        name="cost",
        title=f"Cost per million output tokens, {costs[0].gpus} GPUs paid for",
        columns=(
            Column("use", "scenario", align="left"),
            BATCH,
            TP,
            Column("copies", "copies", optional=2),
            cost,
            Column("node", throughput.name, throughput.unit),
            replace(latency, optional=1),
            Column("cost", "relative_cost", f"x TP{largest}"),
            Column("tok/s", "relative_throughput", f"x TP{largest}", optional=3),
            Column("latency", "relative_latency", f"x TP{largest}", optional=3),
        ),
        sections=sections(rows),
        notes=(
            INTERVALS,
            "one replica: the other GPUs are idle; full node: as many replicas as fit, each at "
            "that batch; same load: these replicas share that batch",
            *([f"{MISSING}: TP{largest} has no result at that batch"] if incomplete else []),
            *([price_note(price)] if price else []),
        ),
    )


def _relative_cells(cost: NodeCost) -> tuple[Cell, Cell, Cell]:
    if cost.relative is None:
        return Cell(MISSING), Cell(MISSING), Cell(MISSING)
    r = cost.relative
    tone: Tone = "better" if r.cost.hi < 1 else "worse" if r.cost.lo > 1 else "plain"
    return _ratio_cell(r.cost, tone), _ratio_cell(r.throughput), _ratio_cell(r.latency)


def _ratio_cell(value: Interval, tone: Tone = "plain") -> Cell:
    return interval_cell(value, tone=tone)


def claim_table(matches: Sequence[ClaimMatch]) -> Table:
    """Return the batches that match a published cost figure, the closest first."""
    matches = at_least_one(matches, "batches that span the claim")
    claim = matches[0].claim
    rows: list[Row] = [
        (
            text_cell(match.concurrency, "strong" if i == 0 else "plain"),
            *(
                Cell(number(value.value), value, "plain", f"({percent(mismatch)} %)")
                for value, mismatch in zip(
                    (match.latency_ratio, match.throughput_ratio, match.cost_share),
                    match.mismatches_pct.values(),
                    strict=True,
                )
            ),
            Cell(percent(match.worst_mismatch_pct, signed=False), match.worst_mismatch_pct),
        )
        for i, match in enumerate(matches)
    ]
    claimed = (claim.latency_ratio, claim.throughput_ratio, claim.cost_share)
    rows.append(
        (text_cell("claimed"), *(Cell(number(v), v, "reference") for v in claimed), Cell(""))
    )
    return Table(
        name="claim",
        title=f"TP{claim.from_tp} to TP{claim.to_tp} on {claim.gpus} GPUs: costs implied by "
        "each batch's steps, and the published ones",
        columns=(
            BATCH,
            Column("latency", "latency_ratio", "x"),
            Column("throughput", "throughput_ratio", "x"),
            Column("cost per token", "cost_share", "x"),
            Column("worst mismatch", "worst_mismatch_pct", "%"),
        ),
        sections=(tuple(rows[:-1]), (rows[-1],)),
        notes=(
            f"closest: batch {matches[0].concurrency}",
            f"the claimed latency allows {number(claim.allowed_throughput_ratio)}x the throughput "
            "(Little's law)",
            *source_notes([claim.source]),
        ),
    )


def audit_table(findings: Sequence[Finding]) -> Table:
    """Return the findings of the audit; an empty table if there are none."""
    rows = tuple(
        (
            text_cell(f.severity, "worse" if f.severity == "broken" else "unclear"),
            text_cell(f.check.replace("_", " ")),
            text_cell(f.where),
            Cell(percent(f.mismatch_pct), f.mismatch_pct),
            text_cell(f.message),
        )
        for f in findings
    )
    return Table(
        name="audit",
        title=f"Audit: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}",
        columns=(
            Column("result", "severity", align="left"),
            Column("check", "check", align="left"),
            Column("where", "where", align="left"),
            Column("mismatch", "mismatch_pct", "%"),
            Column("because", "message", align="left"),
        ),
        sections=(rows,),
        notes=(CHECKED, *source_notes(f.source for f in findings)),
    )


def ranked_table(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Value]],
    notes: Sequence[str] = (),
) -> Table:
    """Return ranked rows, the first one emphasised. Each row is keyed by `Column.name`.

    A column with an SI unit of `shardwise.units` ("s", "bytes") is shown in the unit that suits
    its largest value. Text is unchanged; a missing value is a dash.
    """
    shown: list[tuple[Column, tuple[Cell, ...]]] = []
    for column in columns:
        values = [row.get(column.name) for row in rows]
        if any(isinstance(value, str) for value in values):
            shown.append((column, tuple(_text_or_dash(value) for value in values)))
        else:
            numeric = [value for value in values if not isinstance(value, str)]
            shown.append(scaled_column(column, numeric))
    return Table(
        name=name,
        title=title,
        columns=tuple(column for column, _ in shown),
        sections=(
            tuple(
                tuple(_strong(cells[i]) if i == 0 else cells[i] for _, cells in shown)
                for i in range(len(rows))
            ),
        ),
        notes=tuple(notes),
    )


def _text_or_dash(value: Value) -> Cell:
    return Cell(MISSING) if value is None else Cell(str(value), value)


def _strong(cell: Cell) -> Cell:
    return replace(cell, tone="strong")
