"""Saved studies in one folder: listed once by name, and only those are ever read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from shardwise.errors import InputError, UnknownNameError
from shardwise.evidence.record import Evidence
from shardwise.reports.saved import read_evidence

MAX_STUDIES: Final = 500


@dataclass(frozen=True)
class Store:
    """A folder of studies; None: no folder was given. Names never become paths."""

    folder: Path | None = None

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Name -> file, for `*.json`, `*.jsonl` and `*/study.json` that lie inside the folder."""
        if self.folder is None:
            return {}
        root = self.folder.resolve()
        if not root.is_dir():
            raise InputError(f"no folder {self.folder}", "give a folder with saved studies")
        found = [*root.glob("*.json"), *root.glob("*.jsonl"), *root.glob("*/study.json")]
        inside = [file for file in sorted(found) if file.resolve().is_relative_to(root)]
        return {
            (
                file.parent.name if file.name == "study.json" and file.parent != root else file.stem
            ): (file)
            for file in inside[:MAX_STUDIES]
        }

    def evidence(self, name: str) -> list[Evidence]:
        """The evidence of a study by its listed name. Raises InputError for any other name."""
        if name not in self.files:
            raise UnknownNameError("study", name, self.files, "start with --store FOLDER")
        return read_evidence(self.files[name])

    def listed(self) -> dict[str, list[Evidence]]:
        """Every study that can be read, by name; what cannot be read is not one."""
        found = {}
        for name in self.files:
            try:
                evidence = self.evidence(name)
            except InputError:
                continue
            if evidence:
                found[name] = evidence
        return found
