"""Pasted text as lines: colours, carriage returns and odd blanks taken out, line numbers kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: Terminal escape sequences, and what is left of a colour whose escape byte was lost in a paste.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]"
    r"|\[\d{1,3}(?:;\d{1,3})*m"
)
_INVISIBLE: Final = re.compile("[\u200b-\u200f\u2060\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANKS: Final = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u3000": " "})
#: "> " of a quoted mail or issue, "| " is left alone: tables use it.
_QUOTE: Final = re.compile(r"^(?:>[ ]?)+")


@dataclass(frozen=True)
class Line:
    """One line of the paste; `number` counts from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Problem:
    """Something that could not be read to its end, and where."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def clean(text: str) -> tuple[Line, ...]:
    """The lines of `text` without what a terminal obeys. Tabs stay: tables are cut at them."""
    lines = text.replace("\r\n", "\n").split("\n")
    return tuple(Line(number, _cleaned(line)) for number, line in enumerate(lines, 1))


def _cleaned(line: str) -> str:
    bare = _ESCAPES.sub("", line).translate(_BLANKS)
    bare = _INVISIBLE.sub("", bare.replace("\r", " "))
    return _QUOTE.sub("", bare)
