"""What a report says, in order: each section its lead, its figures and its tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from shardwise.analysis.audit import audit_steps
from shardwise.analysis.beside import beside
from shardwise.analysis.claim import match_claim
from shardwise.reports import decision_tables, tables
from shardwise.reports.about import hardware_table, known_errors_table
from shardwise.reports.memory import memory_table
from shardwise.reports.node_tables import beside_table, redundancy_table
from shardwise.reports.prices import price_note
from shardwise.reports.study_output import StudyOutput
from shardwise.reports.table import Table
from shardwise.reports.time_table import time_table


class Section(msgspec.Struct, frozen=True):
    """`figures` are names of `study_figures`; `lead` is a sentence or two before them."""

    anchor: str
    title: str
    lead: str
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(output: StudyOutput) -> list[Section]:
    """Every section after the answer, in reading order; what a study lacks is left out."""
    return [
        _frontier(output),
        _steps(output),
        *_time(output),
        *_memory(output),
        _cost(output),
        _redundancy(output),
        *_accuracy(output),
        *_audit(output),
        *_method(output),
    ]


def _frontier(output: StudyOutput) -> Section:
    return Section(
        "frontier",
        "Throughput against latency",
        "One curve a TP size; the numbers at its points are requests in flight per copy. First one "
        "copy on its own, then the node filled with copies.",
        ("throughput_latency", "throughput_latency_node"),
        (tables.study_table(output.study.grid),),
    )


def _steps(output: StudyOutput) -> Section:
    study = output.study
    found = [tables.transitions_table(study.steps)] if study.steps else []
    if study.kept:
        found.append(tables.kept_latency_table(study.kept))
    if study.breakevens:
        found.append(tables.breakeven_table(study.breakevens))
    return Section(
        "steps",
        "What each TP step changes",
        "Percent change from one TP to the next at the same batch per copy, up and down.",
        ("tp_steps",),
        tuple(found),
    )


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
            (time_table(shown),),
        )
    ]


def _memory(output: StudyOutput) -> list[Section]:
    if not output.memory:
        return []
    return [
        Section(
            "memory",
            "Memory",
            f"{output.memory_title}, beside what each kind of GPU leaves to the engine.",
            ("memory",),
            (memory_table(output.memory, output.memory_title),),
        )
    ]


def _cost(output: StudyOutput) -> Section:
    shown = [c for c in output.study.costs if c.concurrency in output.shown_batches]
    price = price_note(output.about.price if output.about else None)
    return Section(
        "cost",
        "Cost of output tokens",
        f"All GPUs of the node are paid for, used or not. {price}".strip(),
        ("cost",),
        (decision_tables.cost_table(shown),) if shown else (),
    )


def _redundancy(output: StudyOutput) -> Section:
    shown = [c for c in output.study.costs if c.concurrency in output.shown_batches]
    return Section(
        "replicas",
        "Replicas and redundancy",
        "More copies lose less when a GPU fails: one copy over every GPU loses all.",
        (),
        (redundancy_table(shown or output.study.costs),),
    )


def _accuracy(output: StudyOutput) -> list[Section]:
    found: list[Table] = []
    pairs = beside(output.study.evidence, output.measured)
    if pairs:
        found.append(beside_table(pairs))
    d = output.study.evidence[0].deployment
    if output.about and output.about.errors:
        found.append(known_errors_table(output.about, d.gpu, d.engine))
    if output.pairs:
        found.append(tables.comparison_table(output.pairs))
    lead = (
        "How far these predictions are from what was measured or published."
        if found
        else f"Nothing measured on {d.gpu} with {d.engine} stands beside these predictions: the "
        "intervals are wide for that reason. Measure before you decide."
    )
    return [Section("accuracy", "Predicted against measured", lead, ("measured",), tuple(found))]


def _audit(output: StudyOutput) -> list[Section]:
    found = [decision_tables.audit_table(output.study.findings)]
    if output.published:
        published = output.published
        audit = decision_tables.audit_table(audit_steps(published.steps))
        found.append(replace(audit, name="published_audit", title="Audit of the published study"))
        found.append(decision_tables.claim_table(match_claim(published.steps, published.claim)))
    return [
        Section(
            "audit",
            "Audit",
            "Checks that any set of results must pass, this one and a published one alike.",
            (),
            tuple(found),
        )
    ]


def _method(output: StudyOutput) -> list[Section]:
    about = output.about
    gpu = output.study.evidence[0].deployment.gpu
    hardware = (hardware_table(about.facts, gpu),) if about and about.facts else ()
    return [
        Section(
            "method",
            "Method, sources and versions",
            "Step time is weights read or FLOPs, whichever binds, plus KV read, two all-reduces a "
            "layer and the engine's overhead; prefill is the same with many tokens. Intervals are "
            "80 %, from the errors on measured rows that the fit had not seen.",
            (),
            hardware,
        )
    ]


def sources(output: StudyOutput) -> Sequence[str]:
    """A line for each different source of evidence shown."""
    from shardwise.reports.cells import source_notes

    items = (*output.study.evidence, *output.measured)
    published = [output.published.source] if output.published else []
    return source_notes([*(item.source for item in items), *published])
