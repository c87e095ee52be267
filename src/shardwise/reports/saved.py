"""Read studies written by `shardwise study -o`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from shardwise.analysis.advice import Advice, Basis, NoAdvice, Use, advise
from shardwise.analysis.cost import NodeCost
from shardwise.analysis.layouts import LayoutStudy
from shardwise.analysis.published import published_of
from shardwise.analysis.run import Study
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.evidence.store import is_store, open_store
from shardwise.files import read_limited
from shardwise.reports.about import About
from shardwise.reports.memory import MemoryUse
from shardwise.reports.study_output import StudyOutput
from shardwise.workload.workload import Slo

T = TypeVar("T")
MAX_BYTES: Final = 50_000_000
WRITTEN_BY: Final = "pass a folder written by `shardwise study … -o FOLDER`"


class _Saved(msgspec.Struct, frozen=True):
    """A saved piece of advice: with a choice if one was found, else with the nearest."""

    use: Use
    slo: Slo
    choice: NodeCost | None = None
    evidence: Evidence | None = None
    certain: bool = False
    basis: Basis = "cells"
    note: str = ""
    nearest: str = ""

    @property
    def advice(self) -> Advice | NoAdvice:
        if self.choice is None or self.evidence is None:
            return NoAdvice(self.use, self.slo, self.nearest)
        return Advice(
            self.use, self.slo, self.choice, self.evidence, self.certain, self.basis, self.note
        )


def read_study(path: Path, measured: Sequence[Evidence] = ()) -> StudyOutput:
    """Read the study in a folder, or of its study.json, and add `measured`.

    Raises InputError if it is missing or was not written by `study`.
    """
    file = path / "study.json" if path.is_dir() else path
    study = read_json(file, Study)
    grid = study.grid  # checks the evidence
    if not any(c.scenario == "full_node" for c in study.costs):
        raise InputError(f"{file} has no cost of a full node", "", WRITTEN_BY)
    folder, of = file.parent, next(iter(grid.values())).deployment
    saved = _optional(folder / "advice.json", list[_Saved])
    advice = [s.advice for s in saved or ()] or [advise("offline", Slo(), study.costs, grid)]
    return StudyOutput(
        study=study,
        memory=_optional(folder / "memory.json", list[MemoryUse]) or [],
        published=published_of(of.model, of.gpu, of.dtypes.weight),
        advice=advice,
        about=_optional(folder / "about.json", About),
        measured=measured,
        layouts=_optional(folder / "layouts.json", LayoutStudy),
    )


def read_evidence(path: Path) -> list[Evidence]:
    """Read evidence from a store of measured cells, or from a JSON file: a list of records, a
    study, or one record per line (JSONL)."""
    if is_store(path):
        return stored_evidence(path)
    content = _content(path)
    if path.suffix == ".jsonl":
        lines = [line for line in content.splitlines() if line.strip()]
        return [_decoded(line, Evidence, path) for line in lines]
    if content.lstrip().startswith(b"["):
        return _decoded(content, list[Evidence], path)
    return list(_decoded(content, Study, path).evidence)


def stored_evidence(path: Path, study: str | None = None) -> list[Evidence]:
    """Return the usable cells of a study (None: of all) in a store of `shardwise bench`."""
    with open_store(path, create=False) as opened:
        return [cell.evidence for cell in opened.cells(study) if cell.usable]


def read_json(path: Path, kind: type[T]) -> T:
    """Read the JSON file at `path` as `kind`. Raises InputError naming the problem."""
    return _decoded(_content(path), kind, path)


def _optional(path: Path, kind: type[T]) -> T | None:
    return read_json(path, kind) if path.is_file() else None


def _decoded(content: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a saved study: {error}", "", WRITTEN_BY) from None


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size / 1e6:.0f} MB", f"allowed: {MAX_BYTES / 1e6:g} MB")
        return read_limited(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "", WRITTEN_BY) from None
