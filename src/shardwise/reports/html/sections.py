"""What a report says after the answer, in order: each section its lead, figures and tables."""

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
        lead: A sentence or two before the rest.
        figures: Names of `study_figures`.
        tables: Shown.
        folded: Shown on a click, and left out of a print.
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
    """Every section after the answer, in reading order; what a study lacks is left out."""
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
            "As shardwise plan ranks them: by the cautious end of the cost's interval, among those "
            "that meet what is asked.",
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
            "What each TP step changes",
            "Percent change from one TP to the next at the same batch per copy, upwards.",
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
            "Seconds of a request by cause. Sharding halves the time for weights and compute at "
            "each step; communication and overhead stay, and decide where a step stops paying.",
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
        "Cost of output tokens, and a lost GPU",
        f"All GPUs of the node are paid for, used or not. {price}".strip(),
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
            "What one GPU holds",
            f"{title}, of what the engine may use (the line) on each kind of GPU.",
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
        folded.append(tables.comparison_table(output.pairs))
    lead = (
        "How far these predictions are from what was measured or published."
        if shown or folded
        else f"Nothing measured on {d.gpu} with {d.engine} stands beside these predictions: the "
        "intervals are wide for that reason. Measure before you decide."
    )
    title = "Predicted against measured"
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
        "Checks that any set of results must pass, this one and a published one alike.",
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
        "A step is the sum of its kernels' measured times, corrected by end-to-end rows, and the "
        "engine's own time. Intervals are 80 %, from the errors on measured rows that the fit had "
        "not seen.",
        (),
        (),
        hardware,
    )


def sources(output: StudyOutput) -> Sequence[str]:
    """A line for each different source of evidence shown."""
    from shardwise.reports.cells import source_notes

    items = (*output.study.evidence, *output.measured)
    published = [output.published.source] if output.published else []
    return source_notes([*(item.source for item in items), *published])
