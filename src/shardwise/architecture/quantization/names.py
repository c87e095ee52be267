"""Sets of tensor names as quantization configs write them: plain, with wildcards, as regex.

A plain entry names a module and all below it, wherever it stands in a name: "lm_head",
"model.layers.0.self_attn", "gate". "*" stands for any text. "re:…" is a regular expression that
must match from the start, as compressed-tensors reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from itertools import combinations

from shardwise.errors import InputError

_MAX_PATTERN = 2_000
_LAYER = re.compile(r"(.*?\.\d+)\.(.*)")


class Names:
    """A set of names. Wrappers of the text model ("language_model.") are of no account."""

    def __init__(self, entries: Iterable[str] = (), where: str = "quantization_config") -> None:
        self._plain: set[str] = set()
        self._patterns: list[str] = []
        self._where = where
        self.everything = False
        for entry in entries:
            self._add(entry)
        self._below: dict[str, bool] = {}

    def _add(self, entry: str) -> None:
        if len(entry) > _MAX_PATTERN:
            raise InputError(f"{self._where}: an entry of {len(entry)} characters")
        if entry.startswith("re:"):
            self._patterns.append(f"(?:{self._checked(entry[3:])})")
        elif "*" in entry or "?" in entry:
            text = re.escape(_bare(entry)).replace(r"\*", ".*").replace(r"\?", ".")
            self._patterns.append(rf"(?:(?:.*\.)?{text}(?:\.|$))")
        else:
            self._plain.add(_bare(entry))

    def _checked(self, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"{self._where}: {pattern[:60]!r} is no regular expression: {error}"
            ) from error
        return pattern

    @cached_property
    def _matcher(self) -> re.Pattern[str] | None:
        return re.compile("|".join(self._patterns)) if self._patterns else None

    def __contains__(self, name: str) -> bool:
        if self.everything:
            return True
        name = name.replace("*", "0")
        bare = _bare(name)
        if self._plain and self._in_plain(bare):
            return True
        matcher = self._matcher
        if matcher is None:
            return False
        return any(
            matcher.match(spelling)
            for spelling in (bare, f"model.{bare}", name, f"language_model.model.{bare}",
                             f"model.language_model.{bare}")
        )  # fmt: skip

    def _in_plain(self, name: str) -> bool:
        parts = name.split(".")
        if any(".".join(parts[:end]) in self._plain for end in range(1, len(parts) + 1)):
            return True
        in_layer = _LAYER.fullmatch(name)
        rest = in_layer[2] if in_layer else name
        if rest not in self._below:
            pieces = rest.split(".")
            spans = combinations(range(len(pieces) + 1), 2)
            self._below[rest] = any(".".join(pieces[a:b]) in self._plain for a, b in spans)
        return self._below[rest]


def everything() -> Names:
    names = Names()
    names.everything = True
    return names


def _bare(name: str) -> str:
    """`name` without what wraps the text model and without a leading "model."."""
    return name.replace("language_model.", "").removeprefix("model.").removesuffix(".weight")
