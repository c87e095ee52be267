"""Tables of the report's first page: the ranking, and the compared GPUs.

`plan_tables.plan_table` is the ranking for terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shardwise import metrics
from shardwise.analysis.layouts import LayoutStudy
from shardwise.evidence.record import Interval
from shardwise.planner.rank import Candidate, missed
from shardwise.reports.answer import Shown, plus_minus
from shardwise.reports.comparing import Compared
from shardwise.reports.numbers import Scale, scale_for, value_and_bounds
from shardwise.reports.table import Cell, Column, Row, Table, Tone, text_cell

#: Explains why a cheaper layout can rank lower.
NOTES: Final = (
    "±: half of the 80 % interval.",
    "Ranked, and compared with the row above, by the pessimistic end of the interval.",
)


def ranking_table(layouts: LayoutStudy) -> Table:
    """Return a row for each layout that runs; one that misses a bound has no rank."""
    everything = (*layouts.ranked, *layouts.missing)
    scales = {
        name: scale_for([c.evidence.metrics[name] for c in everything], "s")
        for name in ("ttft_s", "tpot_s")
    }
    cost = metrics.ALL[everything[0].cost_metric] if everything else metrics.COST
    ranked = tuple(_row(i, c, scales) for i, c in enumerate(layouts.ranked, 1))
    missing = tuple(_row(0, c, scales) for c in layouts.missing)
    return Table(
        name="ranking",
        title="Every layout that runs, best first",
        columns=(
            Column("#", "rank"),
            Column("layout", "layout", align="left"),
            Column("in flight", "concurrency", "per replica"),
            Column("throughput", "tok_s_per_gpu", "tok/s per GPU"),
            Column("TTFT", "ttft_s", scales["ttft_s"].unit),
            Column("TPOT", "tpot_s", scales["tpot_s"].unit),
            Column("cost", cost.name, cost.unit),
            Column("capacity left", "capacity_left_pct", "% left if a GPU fails"),
            Column("vs. the row above", "behind", align="left"),
        ),
        sections=tuple(section for section in (ranked, missing) if section),
        notes=NOTES,
    )


def _row(place: int, c: Candidate, scales: dict[str, Scale]) -> Row:
    shown, m = Shown.of(c), c.evidence.metrics
    tone: Tone = "strong" if place == 1 else "plain" if place else "unclear"
    return (
        text_cell(str(place) if place else "–", tone),
        text_cell(shown.title, tone),
        text_cell(c.evidence.workload.concurrency, tone),
        _spread(shown.tok_s_per_gpu, Scale("")),
        _spread(m["ttft_s"], scales["ttft_s"]),
        _spread(m["tpot_s"], scales["tpot_s"]),
        _spread(c.cost, Scale("")),
        text_cell(f"{100 * c.capacity_left:.0f}"),
        text_cell(c.behind if place else missed(c)),
    )


def _spread(value: Interval, scale: Scale) -> Cell:
    return Cell(value_and_bounds(value, scale)[0], value, detail=plus_minus(value))


def compared_table(rows: Sequence[Compared]) -> Table:
    """Return the comparison as a table."""
    unit = next((r.numbers[-1].unit for r in rows if r.numbers), "")
    cells = []
    for r in rows:
        figures = [Cell(n.text, n.text, detail=n.plus_minus) for n in r.numbers]
        units = [n.unit for n in r.numbers]
        shown = [*figures, *[Cell("–")] * (3 - len(figures))]
        if len(units) > 1:
            shown[1] = Cell(f"{r.numbers[1].text} {units[1]}", None, detail=r.numbers[1].plus_minus)
        cells.append(
            (
                Cell(r.name, r.name, "strong", detail=r.price),
                text_cell(r.layout or "–"),
                *shown,
                text_cell(f"{r.context:,}" if r.context else "–"),
                text_cell(r.fits, "better" if r.fits == "yes" else "worse"),
                text_cell(r.calibrated or "–"),
            )
        )
    columns = (
        Column("", "name", align="left"),
        Column("layout", "layout", align="left"),
        Column("throughput", "tok_s_per_gpu", "tok/s per GPU"),
        Column("TPOT", "tpot"),
        Column("cost", "cost", unit),
        Column("largest context", "largest_context", "tokens"),
        Column("fits", "fits", align="left"),
        Column("calibrated", "calibrated", align="left"),
    )
    return Table("compared", "Compared", columns, (tuple(cells),))
