"""One request of a trace file, and the field names of each format.

Azure: TIMESTAMP,ContextTokens,GeneratedTokens; a date and time, of 2023 with seven digits, of 2024
with an offset. BurstGPT: Timestamp (seconds),Model,Request tokens,Response tokens,Total tokens,
Log Type; a response of 0 tokens is a failed request and is skipped. Own:
arrival_s,isl,osl and optionally model, prefix (a name) with prefix_tokens (part of isl), session
(a name) with think_s. Mooncake: a JSON object a line with timestamp (ms), input_length,
output_length and optionally hash_ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import numpy as np

from shardwise.errors import InputError

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
OWN = ("arrival_s", "isl", "osl")
FORMATS = (AZURE, BURSTGPT, OWN)
FRACTION = re.compile(r"(\.\d{6})\d+")
MAX_TOKENS = 10_000_000
MAX_SECONDS = 1e10


class Row(msgspec.Struct, frozen=True):
    """A request; times in seconds."""

    arrival_s: float
    isl: int
    osl: int
    model: str = ""
    prefix: str = ""
    prefix_tokens: int = 0
    session: str = ""
    think_s: float = 0.0
    hash_ids: tuple[int, ...] = ()


def _seconds(text: str, dated: bool) -> float:
    if not dated:
        value = float(text)
    else:
        moment = datetime.fromisoformat(FRACTION.sub(r"\1", text.strip()))
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(value) or abs(value) > MAX_SECONDS:
        raise ValueError(text)
    return value


def _time(text: str, name: str, where: str) -> float:
    dated = name == AZURE[0]
    try:
        return _seconds(text, dated)
    except ValueError:
        expected = "a date and time" if dated else "seconds"
        raise InputError(f"{where}: {name} is {text[:40]!r}", f"expected: {expected}") from None


def _tokens(text: str, name: str, where: str, least: int = 1) -> int:
    expected = f"expected: a whole number of tokens, {least} to {MAX_TOKENS}"
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{where}: {name} is {text[:40]!r}", expected) from None
    if not least <= value <= MAX_TOKENS:
        raise InputError(f"{where}: {name} is {text[:40]}", expected)
    return value


def csv_row(cells: Mapping[str, str | None], names: tuple[str, ...], where: str) -> Row | None:
    """Return the request of a line; None if it failed in the trace. InputError names the cell."""

    def cell(name: str) -> str:
        return (cells.get(name) or "").strip()

    arrival_s = _time(cell(names[0]), names[0], where)
    isl = _tokens(cell(names[1]), names[1], where)
    osl = _tokens(cell(names[2]), names[2], where, least=0 if names is BURSTGPT else 1)
    if osl == 0:
        return None
    if names is not OWN:
        return Row(arrival_s, isl, osl)
    prefix, session = cell("prefix"), cell("session")
    size = _tokens(cell("prefix_tokens"), "prefix_tokens", where) if prefix else 0
    if size >= isl:
        raise InputError(f"{where}: prefix_tokens is {size}", f"expected: below isl {isl}")
    think_s = _time(cell("think_s"), "think_s", where) if session and cell("think_s") else 0.0
    if think_s < 0:
        raise InputError(f"{where}: think_s is {think_s:g}", "expected: seconds, 0 or more")
    return Row(arrival_s, isl, osl, cell("model"), prefix, size, session, think_s)


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


_DECODER = msgspec.json.Decoder(_Line)


def json_row(line: bytes, where: str) -> Row:
    """Return the request of a line in Mooncake's format. InputError names the problem."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"{where}: {str(error)[:120]}",
            'expected: {"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}',
        ) from None
    if not abs(found.timestamp) <= MAX_SECONDS * 1e3:
        raise InputError(f"{where}: timestamp is {found.timestamp:g}", "expected: milliseconds")
    return Row(
        found.timestamp / 1e3,
        _tokens(str(found.input_length), "input_length", where),
        _tokens(str(found.output_length), "output_length", where),
        hash_ids=found.hash_ids,
    )
