"""Traces from files: the Azure LLM inference trace's CSV, and a CSV of our own.

Azure: TIMESTAMP,ContextTokens,GeneratedTokens with "2023-11-16 18:17:03.9799600" (7 digits).
Own: arrival_s,isl,osl and optionally model, prefix (a name), prefix_tokens (part of isl).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.traffic import MAX_REQUESTS, NO_PREFIX, Trace

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
OWN = ("arrival_s", "isl", "osl")
FRACTION = re.compile(r"(\.\d{6})\d+")
MAX_TOKENS = 10_000_000


class _Labels:
    """Names in order of appearance, as numbers."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self.of.setdefault(name, len(self.of))


def _seconds(text: str, azure: bool) -> float:
    if not azure:
        value = float(text)
    else:
        moment = datetime.fromisoformat(FRACTION.sub(r"\1", text.strip()))
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def _field(cells: Mapping[str, str | None], name: str, where: str, azure: bool = False) -> float:
    text = (cells.get(name) or "").strip()
    is_time = name in {"TIMESTAMP", "arrival_s"}
    expected = "a date and time" if azure and is_time else "seconds" if is_time else ""
    expected = expected or f"a whole number of tokens, 1 to {MAX_TOKENS}"
    try:
        value = _seconds(text, azure) if is_time else float(int(text))
    except ValueError:
        raise InputError(f"{where}: {name} is {text[:40]!r}", f"expected: {expected}") from None
    if not is_time and not 1 <= value <= MAX_TOKENS:
        raise InputError(f"{where}: {name} is {text[:40]}", f"expected: {expected}")
    return value


def read_trace(path: Path) -> Trace:
    """The trace of a CSV file, sorted by arrival, its first request at 0 s.

    InputError names the line and what was expected.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            header = reader.fieldnames or []
            azure = all(name in header for name in AZURE)
            if not azure and not all(name in header for name in OWN):
                raise InputError(
                    f"{path}, line 1: columns {', '.join(header)[:120] or 'none'}",
                    f"expected: {','.join(AZURE)} or {','.join(OWN)}",
                )
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file: {error}") from None
    if not 1 <= len(rows) <= MAX_REQUESTS:
        raise InputError(f"{path} holds {len(rows)} requests", f"allowed: 1 to {MAX_REQUESTS:,}")
    return _trace(path, rows, azure)


def _trace(path: Path, rows: list[tuple[int, dict[str, str | None]]], azure: bool) -> Trace:
    names = AZURE if azure else OWN
    numbers = np.zeros((len(rows), 3))
    models, prefixes = _Labels(), _Labels()
    model = np.zeros(len(rows), dtype=np.int64)
    prefix = np.full(len(rows), NO_PREFIX, dtype=np.int64)
    sizes: list[int] = []
    for i, (line, cells) in enumerate(rows):
        where = f"{path}, line {line}"
        numbers[i] = [_field(cells, name, where, azure) for name in names]
        model[i] = models[(cells.get("model") or "").strip()]
        shared = (cells.get("prefix") or "").strip()
        if shared:
            size = int(_field(cells, "prefix_tokens", where))
            prefix[i] = prefixes[shared]
            if prefix[i] == len(sizes):
                sizes.append(size)
            if size >= numbers[i, 1] or size != sizes[prefix[i]]:
                raise InputError(
                    f"{where}: prefix_tokens is {size}",
                    f"expected: below isl {numbers[i, 1]:g} and the same wherever prefix "
                    f"{shared[:40]!r} stands ({sizes[prefix[i]]})",
                )
    if len(models.of) > 1 and "" in models.of:
        raise InputError(f"{path}: some requests name a model, others none", "needed: all or none")
    order = np.argsort(numbers[:, 0], kind="stable")
    arrival = numbers[order, 0]
    return Trace(
        arrival - arrival[0],
        numbers[order, 1].astype(np.int64),
        numbers[order, 2].astype(np.int64),
        model[order],
        prefix[order],
        np.array(sizes, dtype=np.int64),
        tuple(models.of),
    )
