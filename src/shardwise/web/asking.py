"""The state of the page to a study: the same study that the command would make."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.analysis.beside import alike
from shardwise.analysis.run import Question
from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import bundled, load
from shardwise.errors import DoesNotFitError, InputError, UnknownNameError
from shardwise.evidence.record import Evidence
from shardwise.hardware.catalogue import Catalogue
from shardwise.layout.rules import allowed_tp
from shardwise.perfmodel.subject import Asked, catalogue_for, subject_of
from shardwise.reports.answering import Wanted, answer
from shardwise.reports.study_output import StudyOutput
from shardwise.web.state import State, StateError, shown
from shardwise.web.store import Store
from shardwise.workload.workload import Mode, Slo

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MAX_TP: Final = 64
MAX_MEASURED_BATCHES: Final = 32


class Explorer(msgspec.Struct, frozen=True, dict=True):
    """What a running explorer knows: its models, its store, its profile."""

    models: tuple[str, ...]
    store: Store = msgspec.field(default_factory=Store)
    profile: str = "reference"
    catalogue_files: tuple[Path, ...] = ()  #: GPUs and prices of the user's own

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogue_for(self.catalogue_files)


def explorer(own_models: tuple[str, ...] = (), store: Store | None = None) -> Explorer:
    """An explorer of the bundled models and `own_models`, files that its user named.

    Addresses may name only these: a link cannot make the server read another file, nor ask a hub.
    """
    for path in own_models:
        load(path)
    return Explorer((*own_models, *bundled()), store or Store())


def study_of(known: Explorer, state: State) -> StudyOutput:
    """The study of a state. Raises StateError, which says which field to change."""
    _check_names(known, state)
    measured = _measured(known, state)
    question, slo = _question(state, measured), _slo(state)
    asked = Asked(
        state.model,
        state.gpu,
        state.engine,
        state.dtype,
        state.kv_dtype,
        known.profile,
        known.catalogue_files,
    )
    try:
        wanted = Wanted(
            question,
            slo,
            state.price or None,
            command(known, state, question),
            state.rate or None,
            asked,
        )
        found = _answered(asked, wanted)
    except DoesNotFitError as error:
        raise StateError({"gpus": str(error)}) from None
    except InputError as error:
        raise StateError({_field_of(str(error)): str(error)}) from None
    return replace(found, measured=alike(found.study.evidence[0], measured))


@lru_cache(maxsize=64)
def _answered(asked: Asked, wanted: Wanted) -> StudyOutput:
    """Kept for the moves that change what is looked at and not what is asked: batch, axis, cell."""
    return answer(*subject_of(asked), wanted)


def compared(state: State) -> State | None:
    """The state of the other model or GPU, side by side; None where none is chosen."""
    if not state.vs_model and not state.vs_gpu:
        return None
    return replace(
        state,
        model=state.vs_model or state.model,
        gpu=state.vs_gpu or state.gpu,
        price=0.0,
        study="",
    )


def command(known: Explorer, state: State, question: Question) -> str:
    """The command that makes the same study in a terminal."""
    words = ["shardwise", "study", state.model, "--gpu", state.gpu, "--engine", state.engine]
    words += ["--dtype", state.dtype, "--kv-dtype", state.kv_dtype, "--gpus", str(state.gpus)]
    words += ["--tp", ",".join(map(str, question.tp_sizes))]
    words += ["--batch", ",".join(map(str, question.concurrencies))]
    words += ["--isl", str(state.isl), "--osl", str(state.osl), "--mode", state.mode]
    words += ["--ttft", f"{state.ttft:g}"] if state.ttft else []
    words += ["--tpot", f"{state.tpot:g}"] if state.tpot else []
    words += ["--price", f"{state.price:g}"] if state.price else []
    words += ["--profile", known.profile] if known.profile != "reference" else []
    for file in known.catalogue_files:
        words += ["--catalogue", str(file)]
    return shlex.join(words)


def _question(state: State, measured: Sequence[Evidence]) -> Question:
    """The batches are the usual ones, the state's own, and those measured."""
    sizes = allowed_tp(stored_in(load(state.model), state.dtype), min(state.gpus, MAX_TP))
    found = sorted({e.workload.concurrency for e in measured})[:MAX_MEASURED_BATCHES]
    batches = tuple(sorted({*BATCHES, state.batch, *found}))
    mode: Mode = "static_batch" if state.mode == "static_batch" else "closed_loop"
    return Question(state.gpus, sizes, batches, state.isl, state.osl, mode)


def _check_names(known: Explorer, state: State) -> None:
    problems = {}
    lists = (("model", known.models), ("gpu", known.catalogue.by_id))
    for what, names in lists:
        for name in (what, f"vs_{what}"):
            given = getattr(state, name)
            if given not in names and (given or name == what):
                problems[name] = f"unknown {what} {shown(given)}; choose one of the list"
    if state.study and state.study not in known.store.files:
        problems["study"] = f"no study {shown(state.study)} in the store"
    if problems:
        raise StateError(problems)


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


def _field_of(message: str) -> str:
    """The field that an error of the whole question is shown beside."""
    for word, name in (
        ("context", "isl"),
        ("GPUs", "gpus"),
        ("in one node", "gpus"),
        ("dtype", "dtype"),
        ("engine", "engine"),
        ("price", "price"),
    ):
        if word in message:
            return name
    return "model"
