"""Find the start-up messages of vLLM and SGLang anywhere in a text; one event per match."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.node.reading.startup_args import Args, from_command, from_dictionary, from_fields
from shardwise.node.reading.startup_patterns import NUMBER, SAID, SGLANG, TRTLLM, UNITS, VLLM
from shardwise.node.reading.text import Line

#: Minimum length of a line to be considered wrapped by a terminal.
_NARROWEST: Final = 60
_MAX_ARGUMENT_LINES: Final = 80
#: Maximum number of lines between the start of a record and a fact in it.
_MAX_WRAPS: Final = 6
#: Start of a line that does not continue another one.
_RECORD: Final = re.compile(
    r"\s*(?:$|\(\w+(?: rank=\d+)?,? (?:pid|ip)=|\[\d{4}-|\$ |={3,}|INFO|WARN|ERROR|DEBUG|Traceback"
    r"|\d{2,4}[-:/]\d|[^\W\d]{3,4}\.? +\d{1,2} \d\d:\d\d|\S+\s+\|)"
)
_PROCESS: Final = re.compile(r"\((\w+)(?: rank=(\d+))?,? (?:pid=(\w+)|ip=[^)]*)[^)]*\)")
_TP_TAG: Final = re.compile(r"(?<![A-Za-z])TP(\d+)(?!\d)")
_SGLANG_TAG: Final = re.compile(r"\[[^\]\n]*?\d\d:\d\d:\d\d((?: [A-Z]{2}\d+)+)\]")
_CONFIGURED: Final = re.compile(r"LLM engine (?:\(v[^)]*\) )?with config:")


class Event(msgspec.Struct, frozen=True):
    """One logged fact. `process` identifies the worker of a start."""

    line: int
    column: int
    engine: str
    key: str
    values: tuple[float, ...] = ()
    text: str = ""
    process: str = ""
    tp_rank: int | None = None
    args: Args = msgspec.field(default_factory=dict)
    ends_line: bool = False  #: if so, the end of the value may be on the next line

    @property
    def place(self) -> tuple[int, int, str]:
        """Sort key: line, column, and name."""
        return self.line, self.column, self.key


def events(lines: Sequence[Line]) -> tuple[Event, ...]:
    """Return every event in `lines` in the order of the text.

    The text is parsed as it is, and again with lines joined that a terminal may have cut within a
    word. If both find an event, the second one is used if the first ended at the end of its line.
    """
    found = {event.place: event for event in _events(lines, rejoined=False)}
    for event in _events(lines, rejoined=True):
        printed = found.get(event.place)
        if printed is None or (printed.ends_line and event.values):
            found[event.place] = event
    return tuple(found[place] for place in sorted(found))


def _events(lines: Sequence[Line], *, rejoined: bool) -> Iterator[Event]:
    text, starts = _joined(lines, rejoined)
    ends = {start + len(line.text) for start, line in zip(starts, lines, strict=True)}
    for engine, key, match in _matches(text):
        at = bisect_right(starts, match.start()) - 1
        found = Event(
            lines[at].number,
            match.start() - starts[at],
            engine,
            key,
            ends_line=match.end() in ends,
        )
        process, rank = _process(_before(lines, at, found.column))
        said = key in _TEXTS and re.sub(r"\s+", " ", match[1]).strip()
        yield replace(
            found,
            values=() if said else _values(match),
            text=said or "",
            process=process,
            tp_rank=rank,
        )
    if not rejoined:
        yield from _started(lines)


_TEXTS: Final = frozenset(key for _, key, _ in SAID)


def _matches(text: str) -> Iterator[tuple[str, str, re.Match[str]]]:
    for engine, patterns in (("vllm", VLLM), ("sglang", SGLANG), ("trtllm", TRTLLM)):
        for key, pattern in patterns.items():
            for match in pattern.finditer(text):
                yield engine, key, match
    for engine, key, pattern in SAID:
        for match in pattern.finditer(text):
            yield engine, key, match


def _joined(lines: Sequence[Line], rejoined: bool) -> tuple[str, list[int]]:
    """Return the text and the offset of each line in it.

    With `rejoined`, only lines that are continued or continue another one are included.
    """
    parts, starts, at, continues = [], [], 0, False
    for i, line in enumerate(lines):
        goes_on = rejoined and len(line.text) >= _NARROWEST and _continues(lines, i + 1)
        shown = line.text if goes_on or continues or not rejoined else ""
        part = shown + ("" if goes_on else "\n")
        starts.append(at)
        parts.append(part)
        at, continues = at + len(part), goes_on
    return "".join(parts), starts


def _continues(lines: Sequence[Line], at: int) -> bool:
    """Return whether a line may continue the one before it."""
    return at < len(lines) and _RECORD.match(lines[at].text) is None


def _before(lines: Sequence[Line], at: int, column: int) -> str:
    """Return the text between the start of a fact's record and the fact."""
    first = at
    while first > max(at - _MAX_WRAPS, 0) and _continues(lines, first):
        first -= 1
    return " ".join([*(line.text for line in lines[first:at]), lines[at].text[:column]])


def _started(lines: Sequence[Line]) -> Iterator[Event]:
    """Yield command lines, argument dictionaries and configurations."""
    for i, line in enumerate(lines):
        process, _ = _process(line.text)
        if "non-default args:" in line.text:
            args = max((from_dictionary(text) for text in _whole(lines, i)), key=len)
            yield Event(line.number, 0, "vllm", "args", process=process, args=args)
        elif "ServerArgs(" in line.text:
            printed = (text.split("ServerArgs(", 1)[1] for text in _whole(lines, i))
            args = max(map(from_fields, printed), key=len)
            yield Event(line.number, 0, "sglang", "args", process=process, args=args)
        elif configured := _CONFIGURED.search(line.text):
            args = max((from_fields(t[configured.end() :]) for t in _whole(lines, i)), key=len)
            yield Event(line.number, 0, "vllm", "config", process=process, args=args)
        elif (command := from_command(_continued(lines, i))) is not None:
            yield Event(line.number, 0, command[0], "command", args=command[1])


def _whole(lines: Sequence[Line], at: int) -> tuple[str, str]:
    """Return a wrapped record joined in two ways: as broken between words, and within words."""
    parts = [lines[at].text]
    for i in range(at + 1, min(at + _MAX_ARGUMENT_LINES, len(lines))):
        if not _continues(lines, i):
            break
        parts.append(lines[i].text)
    return " ".join(parts), "".join(parts)


def _continued(lines: Sequence[Line], at: int) -> str:
    """Return a line joined with its continuation lines (trailing backslashes)."""
    text = lines[at].text
    while text.rstrip().endswith("\\") and at + 1 < len(lines):
        at += 1
        text = f"{text.rstrip()[:-1]} {lines[at].text.strip()}"
    return text


def _values(match: re.Match[str]) -> tuple[float, ...]:
    """Return the numbers of a match; sizes are in bytes."""
    values: list[float] = []
    for group in match.groups():
        if group is None:
            continue
        if re.fullmatch(NUMBER, group):
            values.append(float(group.replace(",", "")))
        else:
            values[-1] *= 2.0 ** UNITS[group[0].upper()]
    return tuple(values)


def _process(prefix: str) -> tuple[str, int | None]:
    """Return the last process named in a line's prefix, and its TP rank if the tag has one."""
    tags = list(_PROCESS.finditer(prefix))
    if tags:
        name, rank, pid = tags[-1].groups()
        tp = _TP_TAG.search(name)
        number = tp[1] if tp else rank
        return pid or f"{name}{rank or ''}", int(number) if number else None
    tag = _SGLANG_TAG.search(prefix)
    if tag:
        tp = _TP_TAG.search(tag[1])
        return tag[1].strip(), int(tp[1]) if tp else None
    return "", None
