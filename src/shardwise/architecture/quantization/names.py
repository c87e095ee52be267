"""Sets of tensor names as in quantization configs: plain, with wildcards, or regular expressions.

A plain entry matches a module and all modules below it, at any position in a name: "lm_head",
"model.layers.0.self_attn", "gate". "*" matches any text. "re:…" is a regular expression that must
match from the start, as in compressed-tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from itertools import combinations
from typing import Final

from shardwise.errors import InputError

_MAX_PATTERN: Final = 2_000
_LAYER: Final = re.compile(r"(.*?\.\d+)\.(.*)")
#: Prefixes of the text model in names of multimodal checkpoints, which are ignored.
_WRAPPERS: Final = ("", "language_model.", "model.language_model.")


class Names:
    """A set of names.

    Layers share most names, so entries without a layer number are matched once for all layers.
    """

    def __init__(self, entries: Iterable[str] = (), where: str = "quantization_config") -> None:
        self._where = where
        self._plain: set[str] = set()
        self._layers: dict[str, list[re.Pattern[str]]] = {}  # wildcards below one layer
        self._wild: list[re.Pattern[str]] = []
        self._regex: list[re.Pattern[str]] = []
        self._numbered = False  # an expression may tell layers apart
        self._below: dict[str, bool] = {}
        self.everything = False
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        if len(entry) > _MAX_PATTERN:
            raise InputError(f"{self._where}: an entry of {len(entry)} characters")
        if entry.startswith("re:"):
            self._numbered |= bool(re.search(r"\d|\\d|\[", entry))
            self._regex.append(self._compiled(entry[3:]))
        elif "*" in entry or "?" in entry:
            self._add_wild(_bare(entry))
        else:
            self._plain.add(_bare(entry))

    def _add_wild(self, entry: str) -> None:
        in_layer = _LAYER.fullmatch(entry)
        if in_layer and "*" not in in_layer[1]:
            pattern = self._compiled(rf"{_glob(in_layer[2])}(?:\.|$)")
            self._layers.setdefault(in_layer[1], []).append(pattern)
        else:
            self._numbered |= bool(re.search(r"\d", entry))
            self._wild.append(self._compiled(rf"(?:.*\.)?{_glob(entry)}(?:\.|$)"))

    @cached_property
    def tells_layers(self) -> bool:
        """Whether a name may be in the set in one layer and not in another."""
        numbers = any(part.isdecimal() for name in self._plain for part in name.split("."))
        return bool(self._layers) or self._numbered or numbers

    def _compiled(self, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"{self._where}: {pattern[:60]!r} is not a regular expression: {error}"
            ) from error

    def __contains__(self, name: str) -> bool:
        if self.everything:
            return True
        name = _bare(name.replace("*", "0"))
        parts = name.split(".")
        if self._plain and any(
            ".".join(parts[:end]) in self._plain for end in range(1, len(parts) + 1)
        ):
            return True
        in_layer = _LAYER.fullmatch(name)
        if not in_layer:
            return self._anywhere(name, name)
        layer, rest = in_layer[1], in_layer[2]
        if any(pattern.match(rest) for pattern in self._layers.get(layer, ())):
            return True
        if self._numbered:
            return self._anywhere(name, rest)
        if rest not in self._below:
            self._below[rest] = self._anywhere(name, rest)
        return self._below[rest]

    def _anywhere(self, name: str, rest: str) -> bool:
        """Whether an entry that may start anywhere in the name matches `name`, by its `rest`."""
        pieces = rest.split(".")
        spans = combinations(range(len(pieces) + 1), 2)
        if self._plain and any(".".join(pieces[a:b]) in self._plain for a, b in spans):
            return True
        if any(pattern.match(name) for pattern in self._wild):
            return True
        spellings = [f"{wrapper}model.{name}" for wrapper in _WRAPPERS]
        spellings += [name, f"model.language_model.{name}"]
        return any(pattern.match(s) for pattern in self._regex for s in spellings)


def everything() -> Names:
    """Return a set of names that contains every module."""
    names = Names()
    names.everything = True
    return names


def _bare(name: str) -> str:
    """Return `name` without the prefix of the text model and without a leading "model."."""
    return name.replace("language_model.", "").removeprefix("model.").removesuffix(".weight")


def _glob(text: str) -> str:
    return re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
