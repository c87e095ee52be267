"""Sections of a report after the answer: each with a lead, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from shardwise.analysis.audit import audit_steps
from shardwise.analysis.claim import match_claim
from shardwise.analysis.measured_comparison import beside
from shardwise.reports import decision_tables, tables
from shardwise.reports.about import hardware_table, known_errors_table
from shardwise.reports.html.ranking import ranking_table
from shardwise.reports.memory import MemoryUse
from shardwise.reports.node_tables import beside_table, redundancy_table
from shardwise.reports.plan_tables import rejected_lines
from shardwise.reports.prices import price_note
from shardwise.reports.study_output import StudyOutput
from shardwise.reports.table import Table
from shardwise.reports.time_table import time_table


class Section(msgspec.Struct, frozen=True):
    """One section.

    Attributes:
        lead: One or two introductory sentences.
        figures: Names of `study_figures`.
        tables: Always visible.
        folded: Shown on a click and omitted in print.
        memory: Rows of bars.
        lines: Remarks after the tables.
    """

    anchor: str
    title: str
    lead: str
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    memory: tuple[MemoryUse, ...] = ()
    lines: tuple[str, ...] = ()


def sections(output: StudyOutput) -> list[Section]:
    """Return the sections after the answer in order, as far as the study has their data."""
    return [
        *_ranking(output),
        *_steps(output),
        *_time(output),
        _cost(output),
        *_memory(output),
        *_accuracy(output),
        _audit(output),
        _method(output),
    ]


def _ranking(output: StudyOutput) -> list[Section]:
    if output.layouts is None or not (output.layouts.ranked or output.layouts.missing):
        return []
    return [
        Section(
            "ranking",
            "The ranking",
            "Ranked as by shardwise plan: by the pessimistic end of the interval of cost, among "
            "layouts that meet the bounds.",
            (),
            (ranking_table(output.layouts),),
            (tables.study_table(output.study.grid),),
            lines=tuple(rejected_lines(output.layouts.rejected)),
        )
    ]


def _steps(output: StudyOutput) -> list[Section]:
    study = output.study
    if not study.steps:
        return []
    folded = [tables.transitions_table(study.steps)]
    if study.kept:
        folded.append(tables.kept_latency_table(study.kept))
    if study.breakevens:
        folded.append(tables.breakeven_table(study.breakevens))
    return [
        Section(
            "steps",
            "Change per TP step",
            "Percent change from one TP to the next larger one, at the same batch per replica.",
            ("tp_steps",),
            (),
            tuple(folded),
        )
    ]


def _time(output: StudyOutput) -> list[Section]:
    shown = [e for e in output.study.evidence if e.workload.concurrency in output.shown_batches]
    if not any(item.breakdown for item in shown):
        return []
    return [
        Section(
            "time",
            "Where the time goes",
            "Seconds of a request by component. Each step halves the time for weights and compute. "
            "Communication and overhead do not shrink, and limit the gain of a larger TP.",
            ("time_breakdown",),
            (),
            (time_table(shown),),
        )
    ]


def _cost(output: StudyOutput) -> Section:
    shown = [c for c in output.study.costs if c.concurrency in output.shown_batches]
    price = price_note(output.about.price if output.about else None)
    return Section(
        "cost",
        "Cost of output tokens, and loss of a GPU",
        f"The cost covers all GPUs of the node, used or not. {price}".strip(),
        ("cost",),
        (),
        (
            *([decision_tables.cost_table(shown)] if shown else []),
            redundancy_table(shown or output.study.costs),
        ),
    )


def _memory(output: StudyOutput) -> list[Section]:
    if not output.memory:
        return []
    title = output.memory_title
    return [
        Section(
            "memory",
            "Memory of one GPU",
            f"{title}, and the memory that the engine may use (the line), on each kind of GPU.",
            memory=tuple(output.memory),
        )
    ]


def _accuracy(output: StudyOutput) -> list[Section]:
    pairs = beside(output.study.evidence, output.measured)
    d = output.study.evidence[0].deployment
    shown: list[Table] = []
    if output.about and output.about.errors:
        shown.append(known_errors_table(output.about, d.gpu, d.engine))
    folded = [beside_table(pairs)] if pairs else []
    if output.pairs:
        folded.append(tables.comparison_table(output.pairs, output.unlike_published))
    lead = (
        "Errors of these predictions against measured or published values."
        if shown or folded
        else f"There are no measurements on {d.gpu} with {d.engine}, so the intervals are wide. "
        "Measure before you decide."
    )
    title = "Predicted and measured"
    return [Section("accuracy", title, lead, ("measured",), tuple(shown), tuple(folded))]


def _audit(output: StudyOutput) -> Section:
    found = [decision_tables.audit_table(output.study.findings)]
    if output.published:
        published = output.published
        audit = decision_tables.audit_table(audit_steps(published.steps))
        found.append(replace(audit, name="published_audit", title="Audit of the published study"))
        found.append(decision_tables.claim_table(match_claim(published.steps, published.claim)))
    return Section(
        "audit",
        "Audit",
        "Consistency checks of this study and of the published study.",
        (),
        (),
        tuple(found),
    )


def _method(output: StudyOutput) -> Section:
    about = output.about
    gpu = output.study.evidence[0].deployment.gpu
    hardware = (hardware_table(about.facts, gpu),) if about and about.facts else ()
    return Section(
        "method",
        "Method, sources and versions",
        "The time of a step is the sum of its kernels' measured times, corrected by end-to-end "
        "rows, plus the engine's own time. Intervals are 80 % intervals, from errors on held-out "
        "measured rows.",
        (),
        (),
        hardware,
    )


def sources(output: StudyOutput) -> Sequence[str]:
    """Return one line per source of the evidence shown."""
    from shardwise.reports.cells import source_notes

    items = (*output.study.evidence, *output.measured)
    published = [output.published.source] if output.published else []
    return source_notes([*(item.source for item in items), *published])
