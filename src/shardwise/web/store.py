"""Saved studies and measured cells, listed by name; only listed studies are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from shardwise.errors import InputError, UnknownNameError
from shardwise.evidence.record import Evidence
from shardwise.evidence.store import is_store, open_store
from shardwise.reports.saved import read_evidence, stored_evidence

MAX_STUDIES: Final = 500
PATTERNS: Final = ("*.json", "*.jsonl", "*/study.json", "*.db")


class Listed(msgspec.Struct, frozen=True):
    """A study: its own file, or one in a store of measured cells."""

    file: Path
    study: str = ""

    @property
    def state(self) -> tuple[object, ...]:
        """A value that changes with the content, including a store's write-ahead log."""
        log = self.file.with_name(f"{self.file.name}-wal")
        stats = [file.stat() for file in (self.file, log) if file.exists()]
        return (self, *((s.st_mtime_ns, s.st_size) for s in stats))


@dataclass(frozen=True)
class Store:
    """A folder of studies, or one file of measured cells; None if none was given.

    Names are never used as paths.
    """

    folder: Path | None = None
    _read: dict[str, tuple[tuple[object, ...], list[Evidence]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def files(self) -> Mapping[str, Listed]:
        """Return the current files of the folder by name. Raises InputError if it is missing."""
        if self.folder is None:
            return {}
        root = self.folder.resolve()
        if root.is_file() and is_store(root):
            return dict(_studies_of(root))
        if not root.is_dir():
            raise InputError(
                f"no store {self.folder}",
                "allowed: a folder with saved studies, or a file written by 'shardwise bench'",
            )
        found = [file for pattern in PATTERNS for file in root.glob(pattern)]
        inside = [file for file in sorted(found) if file.resolve().is_relative_to(root)]
        listed: dict[str, Listed] = {}
        for file in inside[:MAX_STUDIES]:
            if is_store(file):
                listed.update(_studies_of(file))
            else:
                own = file.name == "study.json" and file.parent != root
                listed[file.parent.name if own else file.stem] = Listed(file)
        return listed

    def evidence(self, name: str) -> list[Evidence]:
        """Return the evidence of a study by its listed name. Raises InputError for other names."""
        found = self.files
        if name not in found:
            raise UnknownNameError("study", name, found, "start with --store FOLDER")
        listed = found[name]
        state = listed.state
        if self._read.get(name, ((), []))[0] != state:
            self._read[name] = (
                state,
                stored_evidence(listed.file, listed.study)
                if listed.study
                else read_evidence(listed.file),
            )
        return self._read[name][1]

    def listed(self) -> dict[str, list[Evidence]]:
        """Return every readable study by name."""
        found = {}
        for name in self.files:
            try:
                evidence = self.evidence(name)
            except InputError:
                continue
            if evidence:
                found[name] = evidence
        return found


def _studies_of(file: Path) -> Iterable[tuple[str, Listed]]:
    """Return the studies in a store of measured cells; none if it is another program's database."""
    try:
        with open_store(file, create=False) as opened:
            names = opened.studies()
    except InputError:
        return []
    return [(f"{file.stem}: {name}", Listed(file, name)) for name in names[:MAX_STUDIES]]
