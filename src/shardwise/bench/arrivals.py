"""Arrival times of an open loop: Poisson, constant, or from a trace file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from shardwise.errors import InputError
from shardwise.files import read_utf8

#: Columns of (time, isl, osl): Mooncake's JSON lines, the Azure LLM inference trace, and the format
#: of `shardwise simulate`.
_COLUMNS: Final = (
    ("timestamp", "input_length", "output_length"),
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("arrival_s", "isl", "osl"),
)
_ALLOWED: Final = (
    'a line each: seconds; or {"timestamp": milliseconds, "input_length": tokens, '
    '"output_length": tokens}; or CSV with the columns arrival_s,isl,osl or '
    "TIMESTAMP,ContextTokens,GeneratedTokens"
)


class Arrivals(msgspec.Struct, frozen=True):
    """Due times in seconds from the start, ascending, and each request's lengths if known."""

    due_s: list[float]
    isl: list[int] | None = None
    osl: list[int] | None = None


def poisson(request_rate: float, requests: int, seed: int) -> Arrivals:
    """Draw exponential gaps with mean 1/request_rate. Raises InputError."""
    _check(request_rate, requests)
    gaps_s = np.random.default_rng(seed).exponential(1.0 / request_rate, requests)
    return Arrivals([float(due_s) for due_s in np.cumsum(gaps_s)])


def constant(request_rate: float, requests: int) -> Arrivals:
    """Return times 1/request_rate apart, the first at 0. Raises InputError."""
    _check(request_rate, requests)
    return Arrivals([i / request_rate for i in range(requests)])


def _check(request_rate: float, requests: int) -> None:
    if not (0 < request_rate < math.inf):
        raise InputError(f"request rate {request_rate:g}", "allowed: requests/s above 0")
    if requests < 1:
        raise InputError(f"{requests} requests", "allowed: at least 1")


def read_trace(path: Path, requests: int = 0) -> Arrivals:
    """Read the arrivals of a trace file, the first at 0 s; `requests` limits their number, 0: all.

    Raises InputError, naming the line.
    """
    try:
        text = read_utf8(path)
    except OSError as error:
        raise InputError(f"cannot read the trace {path}: {error.strerror}") from None
    lines = text.splitlines()
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise InputError(f"the trace {path} is empty", f"allowed: {_ALLOWED}")
    rows = sorted(_rows(path, filled))[: requests or None]
    lengths = [row[1:] for row in rows]
    known = all(0 not in pair for pair in lengths)
    return Arrivals(
        [due_s - rows[0][0] for due_s, _, _ in rows],
        [isl for isl, _ in lengths] if known else None,
        [osl for _, osl in lengths] if known else None,
    )


def _rows(path: Path, lines: list[tuple[int, str]]) -> list[tuple[float, int, int]]:
    """Return (seconds, isl, osl) of each line; lengths are 0 if the line has none."""
    header = [cell.strip() for cell in lines[0][1].split(",")]
    if any(columns[0] in header for columns in _COLUMNS):
        cells = csv.reader(line for _, line in lines[1:])
        pairs = [
            (number, dict(zip(header, row, strict=False)))
            for (number, _), row in zip(lines[1:], cells, strict=True)
        ]
        if not pairs:
            raise InputError(f"the trace {path} has only a header", f"allowed: {_ALLOWED}")
        return [_row(path, number, pair) for number, pair in pairs]
    return [_row(path, number, _fields(path, number, line)) for number, line in lines]


def _fields(path: Path, number: int, line: str) -> Mapping[str, Any]:
    if not line.lstrip().startswith("{"):
        return {"arrival_s": line}
    try:
        fields: Mapping[str, Any] = json.loads(line)
    except ValueError:
        raise _wrong(path, number, line) from None
    return fields


def _row(path: Path, number: int, fields: Mapping[str, Any]) -> tuple[float, int, int]:
    for time, isl, osl in _COLUMNS:
        if time in fields:
            try:
                due_s = _seconds(time, fields[time])
                row = due_s, int(fields.get(isl) or 0), int(fields.get(osl) or 0)
            except (ValueError, TypeError):
                break
            if math.isfinite(due_s) and min(row[1:]) >= 0:
                return row
    raise _wrong(path, number, str(dict(fields)))


def _seconds(column: str, value: Any) -> float:
    if column == "timestamp":
        return float(value) / 1e3
    if column == "arrival_s":
        return float(value)
    moment = datetime.fromisoformat(str(value).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _wrong(path: Path, number: int, found: str) -> InputError:
    return InputError(f"{path}, line {number}: {found[:80]}", f"allowed: {_ALLOWED}")
