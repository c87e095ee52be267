"""Turn the page's state into the study that the command would make."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.analysis.advice import Advice, NoAdvice, Use, planned_advice
from shardwise.analysis.layouts import (
    LayoutCell,
    LayoutStudy,
    cell_deployment,
    cells_from,
    unseen_of,
)
from shardwise.analysis.measured_comparison import alike
from shardwise.analysis.run import Question
from shardwise.architecture.model import Model
from shardwise.architecture.models import bundled, load
from shardwise.errors import DoesNotFitError, InputError, UnknownNameError
from shardwise.evidence.record import Evidence
from shardwise.hardware.catalogue import Catalogue
from shardwise.layout.deployment import Layout
from shardwise.layout.rules import allowed_tp
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.subject import Asked, catalogue_for, subject_of
from shardwise.planner import question as planning
from shardwise.reports.about import known_errors
from shardwise.reports.answer import Answer, Ground, answers_of
from shardwise.reports.answering import (
    Wanted,
    answer,
    file_options,
    plan_command,
    plan_of,
    plan_question,
    planned,
)
from shardwise.reports.study_output import StudyOutput
from shardwise.web.state import State, StateError, shown
from shardwise.web.store import Store
from shardwise.workload.workload import Mode, Slo, Workload

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MAX_TP: Final = 64
USES: Final[tuple[Use, ...]] = ("online", "offline")
MAX_MEASURED_BATCHES: Final = 32


class Explorer(msgspec.Struct, frozen=True, dict=True):
    """A running explorer: its models, store and profile."""

    models: tuple[str, ...]
    store: Store = msgspec.field(default_factory=Store)
    profile: str = "reference"
    catalogue_files: tuple[Path, ...] = ()  #: GPUs and prices of the user's own, a node file last
    start: State = msgspec.field(default_factory=State)  #: what the page shows first

    @cached_property
    def catalogue(self) -> Catalogue:
        """Catalogue with the user's own files."""
        return catalogue_for(self.catalogue_files)


def explorer(own_models: tuple[str, ...] = (), store: Store | None = None) -> Explorer:
    """An explorer of the bundled models and `own_models`, files that its user named.

    URLs may name only these, so that a link cannot make the server read another file or query a
    hub.
    """
    for path in own_models:
        load(path)
    return Explorer((*own_models, *bundled()), store or Store())


def study_of(known: Explorer, state: State) -> StudyOutput:
    """Return the whole study of a state, for its files. Raises StateError naming the field to
    change."""
    asked, wanted, measured = _wanted(known, state)
    with _at_its_field():
        found = answer(*subject_at(asked), wanted)
    return replace(found, measured=alike(found.study.evidence[0], measured))


@lru_cache(maxsize=256)
def subject_at(asked: Asked) -> tuple[Subject, Catalogue]:
    """Return the subject of a state, read once, because kernel tables are cached by the identity
    of its model."""
    return subject_of(asked)


class Found(msgspec.Struct, frozen=True):
    """The page's content for one model on one GPU.

    Attributes:
        question: The planner's question for online use.
        answers: For online use, then for offline use.
        layouts: None if the planner does not support the question.
        cells: Every layout at each batch.
        measured: From the store, one replica each.
        commands: Terminal commands for the study and the plan of the same state.
        files: Those of the catalogue, a node file last.
    """

    state: State
    subject: Subject
    question: planning.Question
    answers: tuple[Answer, ...]
    layouts: LayoutStudy | None
    cells: tuple[LayoutCell, ...]
    ground: Ground
    commands: tuple[str, ...]
    files: tuple[Path, ...] = ()
    measured: tuple[Evidence, ...] = ()

    @property
    def answer(self) -> Answer:
        """The answer for the first GPU."""
        return self.answers[0]

    @property
    def layout_names(self) -> tuple[str, ...]:
        """Names of all layouts, in order."""
        return tuple(dict.fromkeys(cell.layout.name for cell in self.cells))


def found_of(known: Explorer, state: State, uses: tuple[Use, ...] | None = None) -> Found:
    """Return the answers of a state for `uses`, and every layout. The default is both uses, or the
    compared one. Raises StateError naming the field to change."""
    asked, wanted, measured = _wanted(known, state)
    with _at_its_field():
        found = _found(asked, wanted, uses or (USES[:1] if compared(state) else USES))
        found = replace(found, state=state)
    shown = found.answer.shown
    return replace(found, measured=tuple(alike(shown.evidence, measured)) if shown else ())


@lru_cache(maxsize=128)
def _found(asked: Asked, wanted: Wanted, uses: tuple[Use, ...]) -> Found:
    """Cached for changes of the view (axis, cell) that do not change the question."""
    subject, catalogue = subject_at(asked)
    used = catalogue.price_used(subject.gpu.id, wanted.usd_per_gpu_hour)
    price = used.usd_per_hour if used else None
    if planned(wanted.question):
        advice, layouts, cells = _planned(subject, wanted, price, uses)
    else:
        advice, layouts, cells = _studied(subject, catalogue, wanted)
    unseen = layouts.unseen if layouts else unseen_of(subject, {c.layout for c in cells})
    ground = Ground(subject.gpu.id, subject.engine, known_errors(subject), unseen)
    return Found(
        state=State(),
        subject=subject,
        question=plan_question("online", subject, wanted, price),
        answers=tuple(answers_of(advice, layouts, ground)),
        layouts=layouts,
        cells=cells,
        ground=ground,
        files=tuple(asked.catalogue_files),
        commands=tuple(
            c for c in (wanted.command, plan_command(wanted, subject.weight_dtype)) if c
        ),
    )


Advised = tuple[list[Advice | NoAdvice], LayoutStudy | None, tuple[LayoutCell, ...]]


def _planned(
    subject: Subject, wanted: Wanted, price: float | None, uses: tuple[Use, ...]
) -> Advised:
    made = plan_of(subject, wanted, price, uses)
    assert made.layouts, "the planner supports only closed loops"
    sizes = wanted.question.tp_sizes
    advice = [planned_advice(use, plan, sizes) for use, plan in made.by_use.items() if plan]
    return advice, made.layouts, made.layouts.cells


def _studied(subject: Subject, catalogue: Catalogue, wanted: Wanted) -> Advised:
    """Answer from the cells of a TP study, for questions that the planner does not support."""
    output = answer(subject, catalogue, wanted)
    cells = cells_from(output.study.evidence, wanted.question.gpus)
    return list(output.advice), None, tuple(cells)


def cells_of(found: Found, asked: Sequence[tuple[Layout, int]]) -> list[Evidence]:
    """Predict one replica of each layout at a batch, with its breakdown."""
    demand, mode = found.question.demand, _mode(found.state)
    return predict(
        found.subject,
        [cell_deployment(found.question, found.subject, *one) for one in asked],
        [
            Workload(demand.isl, demand.osl, batch, mode, request_rate=demand.request_rate)
            for _, batch in asked
        ],
    )


def compared(state: State) -> list[State]:
    """Return the states of the GPUs and models compared with the first."""
    alone = replace(state, price=0.0, study="", vs_gpu=(), vs_model=(), layout="", batch=0)
    return [
        *(replace(alone, gpu=gpu) for gpu in state.vs_gpu),
        *(replace(alone, model=model) for model in state.vs_model),
    ]


def command(known: Explorer, state: State, question: Question) -> str:
    """Return the command that makes the same study in a terminal."""
    words = ["shardwise", "study", state.model, "--gpu", state.gpu, "--engine", state.engine]
    words += ["--dtype", state.dtype, "--kv-dtype", state.kv_dtype, "--gpus", str(state.gpus)]
    words += ["--tp", ",".join(map(str, question.tp_sizes))]
    words += ["--batch", ",".join(map(str, question.concurrencies))]
    words += ["--isl", str(state.isl), "--osl", str(state.osl), "--mode", state.mode]
    words += ["--ttft", f"{state.ttft:g}ms"] if state.ttft else []
    words += ["--tpot", f"{state.tpot:g}ms"] if state.tpot else []
    words += ["--price", f"{state.price:g}"] if state.price else []
    words += ["--profile", known.profile] if known.profile != "reference" else []
    words += file_options(known.catalogue_files)
    return shlex.join(words)


def _question(state: State, arch: Model, measured: Sequence[Evidence]) -> Question:
    """The batches are the default ones, that of the selected cell, and the measured ones."""
    sizes = allowed_tp(arch, min(state.gpus, MAX_TP))
    found = sorted({e.workload.concurrency for e in measured})[:MAX_MEASURED_BATCHES]
    own = [state.batch] if state.batch else []
    batches = tuple(sorted({*BATCHES, *own, *found}))
    return Question(state.gpus, sizes, batches, state.isl, state.osl, _mode(state))


def _mode(state: State) -> Mode:
    return "static_batch" if state.mode == "static_batch" else "closed_loop"


def _check_names(known: Explorer, state: State) -> None:
    problems = {}
    lists = (("model", known.models), ("gpu", known.catalogue.by_id))
    for what, names in lists:
        if getattr(state, what) not in names:
            given = shown(getattr(state, what))
            problems[what] = f"unknown {what} {given}; choose one from the list"
        strange = [name for name in getattr(state, f"vs_{what}") if name not in names]
        if strange:
            problems[f"vs_{what}"] = f"unknown {what} {shown(strange[0])}; choose one from the list"
    if state.study and state.study not in known.store.files:
        problems["study"] = f"no study {shown(state.study)} in the store"
    if problems:
        raise StateError(problems)


def asked_of(known: Explorer, state: State) -> tuple[Asked, Wanted]:
    """Return the subject and the study's question of a state. Raises StateError."""
    asked, wanted, _ = _wanted(known, state)
    return asked, wanted


def _wanted(known: Explorer, state: State) -> tuple[Asked, Wanted, list[Evidence]]:
    """Return the question, and its measurements in the store."""
    _check_names(known, state)
    measured = _measured(known, state)
    asked = Asked(
        state.model,
        state.gpu,
        state.engine,
        state.dtype,
        state.kv_dtype,
        known.profile,
        known.catalogue_files,
    )
    with _at_its_field():
        arch = subject_at(asked)[0].arch
        question, slo = _question(state, arch, measured), _slo(state)
    line = command(known, state, question)
    wanted = Wanted(question, slo, state.price or None, line, state.rate or None, asked)
    return asked, wanted, measured


#: Field of an error -> the page's field that shows it; the model's if none is named.
FIELDS: Final = {
    "isl": "isl",
    "gpu": "gpu",
    "gpus": "gpus",
    "dtype": "dtype",
    "kv_dtype": "dtype",
    "engine": "engine",
    "price": "price",
}


@contextmanager
def _at_its_field() -> Iterator[None]:
    """Turn errors of a whole question into errors of the field that shows them."""
    try:
        yield
    except StateError:
        raise
    except DoesNotFitError as error:
        raise StateError({"gpus": str(error)}) from None
    except InputError as error:
        raise StateError({FIELDS.get(error.field, "model"): str(error)}) from None


def _slo(state: State) -> Slo:
    return Slo(
        ttft_s=state.ttft / 1e3 if state.ttft else None,
        tpot_s=state.tpot / 1e3 if state.tpot else None,
    )


def _measured(known: Explorer, state: State) -> list[Evidence]:
    if not state.study:
        return []
    try:
        return [e for e in known.store.evidence(state.study) if e.source.kind != "predicted"]
    except (UnknownNameError, InputError) as error:
        raise StateError({"study": str(error)}) from None
