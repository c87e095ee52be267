"""Split pasted text into numbered lines without colours, carriage returns and odd blanks."""

from __future__ import annotations

import re
from typing import Final

import msgspec

#: Terminal escape sequences, also if a paste lost the escape byte or wrote it out.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]"
    r"|(?:#033|\\x1b|\\u001b|\\033|\\e|\^\[)?\[\d{1,3}(?:;\d{1,3})*m"
)
_INVISIBLE: Final = re.compile("[\u200b-\u200f\u2060\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANKS: Final = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u3000": " "})
#: "> " of a quoted mail or issue. "| " is kept because tables use it.
_QUOTE: Final = re.compile(r"^(?:>[ ]?)+")
_BOLD: Final = re.compile(r"\*\*(GPU\d+)\*\*")  #: first column of a Markdown table
#: Prefixes that a container runtime, a journal or a shell's clock adds to every line.
_PREFIXES: Final = (
    re.compile(r"(?!GPU\d)[\w.-]+\s*\|\s?"),
    re.compile(r"\d{4}-\d\d-\d\dT\S+\s+(?:stdout|stderr)\s+[FP]\s?"),
    re.compile(r"[^\W\d]{3,4}\.?\s+\d{1,2}\s\d\d:\d\d:\d\d\s\S+\s\S+\[\d+\]:\s?"),
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*\s(?:\|\s)?"),
)
#: A prefix is removed if at least this share of the lines has it.
_SHARED: Final = 0.8


class Line(msgspec.Struct, frozen=True):
    """One line of the text; `number` counts from 1."""

    number: int
    text: str


class Problem(msgspec.Struct, frozen=True):
    """A part of the text that is truncated, and its line."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def clean(text: str) -> tuple[Line, ...]:
    """Return the lines of `text` without terminal escapes and without a common prefix.

    Tabs are kept because they separate table columns.
    """
    lines = [_cleaned(line) for line in text.replace("\r\n", "\n").split("\n")]
    for prefix in _PREFIXES:
        lines = _without(prefix, lines)
    return tuple(Line(number, line) for number, line in enumerate(lines, 1))


def _without(prefix: re.Pattern[str], lines: list[str]) -> list[str]:
    """Return `lines` without `prefix` if nearly all have it."""
    filled = [line for line in lines if line.strip()]
    having = sum(prefix.match(line) is not None for line in filled)
    if having < 2 or having < _SHARED * len(filled):
        return lines
    return [prefix.sub("", line, count=1) if prefix.match(line) else line for line in lines]


def _cleaned(line: str) -> str:
    bare = _ESCAPES.sub("", line).translate(_BLANKS)
    bare = _INVISIBLE.sub("", bare.replace("\r", " "))
    return _BOLD.sub(r"\1", _QUOTE.sub("", bare))
