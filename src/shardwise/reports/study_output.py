"""Tables, figures and files of a study, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.analysis.audit import audit_steps
from shardwise.analysis.claim import match_claim
from shardwise.analysis.frontier import Point, points
from shardwise.analysis.layouts import LayoutStudy
from shardwise.analysis.measured_comparison import beside
from shardwise.analysis.published import PublishedStudy, other_lengths
from shardwise.analysis.run import Study
from shardwise.analysis.transitions import StepPair, compare
from shardwise.errors import UnknownNameError
from shardwise.evidence.record import Evidence
from shardwise.reports import decision_tables, tables
from shardwise.reports.about import About
from shardwise.reports.files import write_csv, write_evidence_csv, write_json
from shardwise.reports.memory import MemoryUse, memory_table
from shardwise.reports.table import Table
from shardwise.reports.time_table import time_table

if TYPE_CHECKING:
    from shardwise.reports.comparing import Side
    from shardwise.reports.figure_style import Figure

#: Batches in the tables and figures of components: the published study's, if included.
SHOWN_BATCHES: Final = (16, 128)


class StudyOutput(msgspec.Struct, frozen=True):
    """A study with its comparison data."""

    study: Study
    memory: Sequence[MemoryUse]
    published: PublishedStudy | None
    advice: Sequence[Advice | NoAdvice]
    about: About | None = None
    measured: Sequence[Evidence] = ()  #: laid beside the predictions
    layouts: LayoutStudy | None = None  #: None where the planner does not take the question
    compared: Sequence[Side] = ()  #: this study's subject and others under the same question

    @property
    def pairs(self) -> tuple[StepPair, ...]:
        """Our steps paired with the published ones; empty if there are none."""
        return compare(self.study.steps, self.published.steps) if self.published else ()

    @property
    def unlike_published(self) -> str:
        """Say how the lengths differ from those of the published study; "" if they do not."""
        asked = self.study.question
        if not self.published:
            return ""
        return other_lengths(self.published, asked.isl, asked.osl, asked.length_cv)

    def points(self, gpus: int | None = None) -> tuple[Point, ...]:
        """A point per cell, predicted and measured, as in `frontier.points`."""
        return (*points(self.study.evidence, gpus), *points(self.measured, gpus))

    def frontier(self) -> Figure:
        """Draw tokens/s per GPU against tokens/s per user, as in the report."""
        return self.figure("frontier")

    def time_breakdown(self) -> Figure:
        """Draw the time of a request by component per TP, as in the report."""
        return self.figure("time_breakdown")

    def figure(self, name: str) -> Figure:
        """Return a figure of the report by name, from `study_figures`. Raises UnknownNameError."""
        from shardwise.reports.figure_style import Figure

        charts = study_figures(self)
        if name not in charts:
            raise UnknownNameError("figure", name, charts)
        return Figure(charts[name])

    @property
    def shown_batches(self) -> tuple[int, ...]:
        """Return the batches in figures and short tables."""
        asked = self.study.question.concurrencies
        chosen = tuple(c for c in SHOWN_BATCHES if c in asked)
        return chosen or (asked[0], asked[-1])[: len(asked)]

    @property
    def memory_title(self) -> str:
        """Return the title of the memory figure."""
        question = self.study.question
        tokens = question.isl + question.osl
        tp_size = self.memory[0].tp_size if self.memory else 1
        return f"One GPU's memory at TP={tp_size}, one sequence of {tokens:,} tokens"


def study_tables(output: StudyOutput) -> list[Table]:
    """Return every table of a study, in reading order."""
    study = output.study
    shown = [c for c in study.costs if c.concurrency in output.shown_batches]
    found = [tables.study_table(study.grid)]
    if study.steps:  # none if only one TP fits
        found.append(tables.transitions_table(study.steps))
    if study.kept:
        found.append(tables.kept_latency_table(study.kept))
    if study.breakevens:
        found.append(tables.breakeven_table(study.breakevens))
    items = [e for e in study.evidence if e.workload.concurrency in output.shown_batches]
    if any(item.breakdown for item in items):
        found.append(time_table(items))
    price = output.about.price if output.about else None
    found.append(decision_tables.cost_table(shown, price))
    if output.memory:
        found.append(memory_table(output.memory, output.memory_title))
    found.append(decision_tables.audit_table(study.findings))
    if output.published:
        published = output.published
        if output.pairs:
            found.append(tables.comparison_table(output.pairs, output.unlike_published))
        audit = decision_tables.audit_table(audit_steps(published.steps))
        found.append(_renamed(audit, "published_audit", "Audit of the published study"))
        claims = match_claim(published.steps, published.claim)
        found.append(decision_tables.claim_table(claims))
    return found


def _renamed(table: Table, name: str, title: str) -> Table:
    from msgspec.structs import replace

    return replace(table, name=name, title=title)


def study_figures(output: StudyOutput) -> dict[str, Any]:
    """Return every figure of a study as an Altair chart, by file name."""
    from shardwise.reports import figures
    from shardwise.reports.figure_frontier import frontier
    from shardwise.reports.figure_style import caption, sources

    study = output.study
    shown = output.shown_batches
    items = [e for e in study.evidence if e.workload.concurrency in shown]
    charts = {
        "frontier": frontier(output, "tok_s_per_user"),
        "throughput_latency": frontier(output, "e2e_latency_s"),
        "cost": figures.token_cost(
            [c for c in study.costs if c.concurrency in shown], caption(items)[:-1]
        ),
    }
    if any(item.breakdown for item in items):
        charts["time_breakdown"] = figures.time_breakdown(items)
    if output.pairs:
        charts["tp_steps"] = figures.tp_steps(output.pairs, output.unlike_published)
    elif study.steps:
        charts["tp_steps"] = figures.tp_changes(
            [step for step in study.steps if step.concurrency in shown]
        )
    if output.memory:
        charts["memory"] = figures.memory_per_gpu(
            output.memory, output.memory_title, (study.evidence[0].deployment.model,)
        )
    pairs = beside(study.evidence, output.measured)
    if pairs:
        charts["measured"] = figures.cell_errors(pairs, sources(e.source for e in output.measured))
    return charts


def write_study(
    output: StudyOutput, folder: Path, progress: Callable[[str, int, int], None]
) -> list[Path]:
    """Write JSON, CSV and figures of a study into a prepared folder."""
    from shardwise.reports.figures import save

    found = study_tables(output)
    written = [
        write_json(folder / "study.json", output.study),
        write_json(folder / "advice.json", output.advice),
        write_json(folder / "memory.json", output.memory),
        *([write_json(folder / "about.json", output.about)] if output.about else []),
        *([write_json(folder / "layouts.json", output.layouts)] if output.layouts else []),
        write_evidence_csv(folder / "evidence.csv", output.study.evidence),
        *(write_csv(folder / f"{table.name}.csv", table) for table in found),
    ]
    charts = study_figures(output)
    for done, (name, chart) in enumerate(charts.items(), start=1):
        progress(f"figure {name}", done, len(charts))
        written += save(chart, folder, name)
    return written
