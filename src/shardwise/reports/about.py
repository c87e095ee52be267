"""Provenance of a study: the command, versions, the GPU's values and price, known errors."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

import shardwise
from shardwise import metrics
from shardwise.evidence.portable import without_folders
from shardwise.hardware.catalogue import Catalogue, Price
from shardwise.hardware.reading import Fact
from shardwise.perfmodel.estimate import Subject
from shardwise.reports.engine_commands import EngineCommands
from shardwise.reports.numbers import MISSING, number, percent
from shardwise.reports.table import Cell, Column, Table, text_cell


class KnownError(msgspec.Struct, frozen=True):
    """Errors of a profile's predictions on measured rows of one GPU and engine."""

    metric: str
    rows: int
    fitted_pct: float
    held_out_pct: float | None  #: with one TP left out of the fit; None with too few TPs


class About(msgspec.Struct, frozen=True):
    """What is needed to repeat a study and judge its sources. `date` is ISO, UTC."""

    command: str
    version: str
    python: str
    date: str
    profile: str
    facts: tuple[Fact, ...]
    price: Price | None  #: the one used
    errors: tuple[KnownError, ...]
    plan: str = ""  #: the command that plans the same deployment and writes its file
    provenance: str = ""  #: of the profile
    start: EngineCommands = msgspec.field(default_factory=EngineCommands)  #: of the first answer


def about(
    subject: Subject, catalogue: Catalogue, price: Price | None, command: str, plan: str = ""
) -> About:
    """Return the provenance of a study of `subject` made now by `command`, deployed by `plan`.

    `price` is the one used. Local folders are removed from the commands.
    """
    profile = subject.calibrated.profile
    return About(
        command=without_folders(command),
        version=shardwise.__version__,
        python=platform.python_version(),
        date=datetime.now(UTC).date().isoformat(),
        profile=profile.name,
        facts=catalogue.facts(subject.gpu.id),
        price=price,
        errors=known_errors(subject),
        plan=without_folders(plan),
        provenance=profile.provenance,
    )


def known_errors(subject: Subject) -> tuple[KnownError, ...]:
    """Return the errors of the profile of `subject` on the measured rows of its GPU and engine."""
    return tuple(
        KnownError(e.metric, e.rows, e.fitted_pct, e.held_out_pct)
        for e in subject.calibrated.profile.errors
        if (e.gpu, e.engine) == (subject.gpu.id, subject.engine)
    )


def hardware_table(facts: Sequence[Fact], gpu: str) -> Table:
    """Return each value of the GPU with its unit, source and date."""
    rows = tuple(
        (
            text_cell(fact.field.replace("_", " ")),
            _figure(fact),
            text_cell(", ".join(part for part in (fact.source, fact.date) if part)),
            text_cell("; ".join(part for part in (*fact.alternatives, fact.why) if part)),
        )
        for fact in facts
    )
    return Table(
        name="hardware",
        title=f"{gpu}: values used",
        columns=(
            Column("figure", "field", align="left"),
            Column("value", "value"),
            Column("source", "source", align="left"),
            Column("other values, and reason", "alternatives", align="left"),
        ),
        sections=(rows,),
    )


def _figure(fact: Fact) -> Cell:
    if isinstance(fact.value, str):
        return text_cell(fact.value)
    return Cell(f"{number(fact.value)} {fact.unit}".removesuffix(" 1"), fact.value)


def known_errors_table(about: About, gpu: str, engine: str) -> Table:
    """Return the mean absolute error of the profile on the measured rows of this GPU and engine."""
    rows = tuple(
        (
            text_cell(metrics.ALL[e.metric].label),
            text_cell(e.rows),
            Cell(percent(e.fitted_pct, signed=False), e.fitted_pct),
            Cell(
                MISSING if e.held_out_pct is None else percent(e.held_out_pct, signed=False),
                e.held_out_pct,
            ),
        )
        for e in about.errors
    )
    return Table(
        name="known_errors",
        title=f"Profile {about.profile} against measured rows of {gpu} with {engine}: mean error",
        columns=(
            Column("metric", "metric", align="left"),
            Column("rows (n)", "rows"),
            Column("of the fit", "fitted_pct", "%"),
            Column("held out", "held_out_pct", "%"),
        ),
        sections=(rows,),
        notes=(
            f"of the fit: on the rows used in the fit; held out: with the row's TP left out of the "
            f"fit; {MISSING}: too few TPs were measured",
        ),
    )
