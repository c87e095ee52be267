"""Read a run to compare: evidence from a store, a saved study or a JSON file, with its versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shardwise.errors import InputError, UnknownNameError
from shardwise.evidence.measured import Measured, count_reasons
from shardwise.evidence.record import Evidence
from shardwise.evidence.store import is_store, open_store
from shardwise.files import read_limited
from shardwise.reports.saved import read_evidence


class Run(msgspec.Struct, frozen=True):
    """A run to compare. `skipped` has the reason for each cell that was left out."""

    name: str
    evidence: tuple[Evidence, ...]
    versions: Mapping[str, str] = msgspec.field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Number of skipped cells."""
        return len(self.skipped)


class _Exported(msgspec.Struct, frozen=True):
    """A cell as written by `bench export`, without its raw requests."""

    study: str
    key: str
    evidence: Evidence
    conditions: dict[str, Any] = msgspec.field(default_factory=dict)


def read_run(path: Path, study: str = "") -> Run:
    """Read the run at `path`: a store (`study` names one of its studies), the folder of a saved
    study, or a JSON file of evidence, exported cells or a study.

    Raises InputError if there is none, or it has no results.
    """
    if is_store(path):
        run = _stored(path, study)
    elif study:
        raise InputError(f"{path} with the study {study[:80]!r}", "allowed: a study of a store")
    else:
        run = _from_file(path / "study.json" if _is_folder(path) else path)
    if not run.evidence:
        skipped = f"skipped: {count_reasons(run.skipped)}" if run.skipped else ""
        raise InputError(f"{path} has no usable cells", "", skipped)
    return run


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long for the file system; reading it reports that
        return False


def _stored(path: Path, study: str) -> Run:
    with open_store(path, create=False) as store:
        if study and study not in store.studies():
            raise UnknownNameError("study", study, store.studies())
        return _of_cells(study or path.name, store.cells(study or None))


def _from_file(path: Path) -> Run:
    cells = _exported(path)
    name = path.parent.name if path.name == "study.json" else path.name
    return Run(name, tuple(read_evidence(path))) if cells is None else _of_cells(name, cells)


def _exported(path: Path) -> list[Measured] | None:
    """Return the cells of a file written by `bench export`, or None for another file."""
    try:
        found = msgspec.json.decode(read_limited(path), type=list[_Exported])
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    return [Measured(cell.study, cell.key, cell.evidence, cell.conditions) for cell in found]


def _of_cells(name: str, cells: Iterable[Measured]) -> Run:
    every = list(cells)
    usable = [cell for cell in every if cell.usable]
    versions: dict[str, set[str]] = {}
    for cell in usable:
        known: Mapping[str, Any] = cell.conditions.get("versions") or {}
        for library, version in known.items():
            versions.setdefault(library, set()).add(str(version))
    return Run(
        name,
        tuple(cell.evidence for cell in usable),
        {library: ", ".join(sorted(found)) for library, found in versions.items()},
        tuple(cell.why_unusable for cell in every if not cell.usable),
    )
