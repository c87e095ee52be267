"""Read trace files: Azure's and BurstGPT's CSV, Mooncake's JSON lines, and our own CSV.

Lines may be in any order and hours apart. `trace_rows` describes the formats.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from shardwise.bench.sharegpt import read_sharegpt
from shardwise.errors import InputError
from shardwise.files import read_limited, read_utf8
from shardwise.simulator.chains import Chains
from shardwise.simulator.trace import MAX_REQUESTS, Ints, Sessions, Trace
from shardwise.simulator.trace_rows import FORMATS, Row, csv_row, json_row

#: Characters per token of English text, for lengths without a tokenizer. Assumed; tokenizers with
#: 100,000 and more tokens reach 4 to 4.5. Doubling it halves all lengths.
CHARACTERS_PER_TOKEN = 4.0
MAX_BLOCK = 1_000_000


class _Labels:
    """Names in order of appearance, as numbers."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self.of.setdefault(name, len(self.of))


def read_trace(path: Path, hash_block: int | None = None) -> Trace:
    """Read the trace of a file, sorted by arrival, with its first request at 0 s.

    `hash_block`: tokens per hash id of a Mooncake trace. InputError names the line and the
    expected value.
    """
    if hash_block is not None and not 1 <= hash_block <= MAX_BLOCK:
        raise InputError(f"hash block is {hash_block} tokens", f"allowed: 1 to {MAX_BLOCK}")
    rows = list(_rows(path))
    if not 1 <= len(rows) <= MAX_REQUESTS:
        raise InputError(f"{path} has {len(rows)} requests", f"allowed: 1 to {MAX_REQUESTS:,}")
    return _trace(path, rows, hash_block)


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each request with its location in the file."""
    try:
        if path.suffix in {".jsonl", ".json"}:
            for number, line in enumerate(read_limited(path).splitlines(), 1):
                where = f"{path}, line {number}"
                if line.strip():
                    yield where, json_row(line, where)
            return
        reader = csv.DictReader(io.StringIO(read_utf8(path), newline=""))
        names = _format_of(path, reader.fieldnames or [])
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            row = csv_row(cells, names, where)
            if row is not None:
                yield where, row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}") from None


def _format_of(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    for names in FORMATS:
        if all(name in header for name in names):
            return names
    raise InputError(
        f"{path}, line 1: columns {', '.join(header)[:120] or 'none'}",
        f"expected: {' or '.join(','.join(names) for names in FORMATS)}, or a .jsonl file",
    )


def _trace(path: Path, rows: list[tuple[str, Row]], hash_block: int | None) -> Trace:
    rows.sort(key=lambda pair: pair[1].arrival_s)
    models = _Labels()
    model = np.array([models[row.model] for _, row in rows], dtype=np.int64)
    if len(models.of) > 1 and "" in models.of:
        raise InputError(f"{path}: some requests name a model, others none", "needed: all or none")
    chains = Chains()
    sizes: dict[str, int] = {}
    turns: dict[str, list[tuple[str, int]]] = {}
    for i, (where, row) in enumerate(rows):
        labels, ends = _chain(where, row, hash_block, sizes)
        if row.session:
            said = turns.setdefault(row.session, [])
            said[:] = [turn for turn in said if turn[1] <= row.isl]  # a shortened history
            said.append((f"{i}", row.isl + row.osl))
            labels += [f"turn {name}" for name, _ in said]
            ends += [end for _, end in said]
        chains.add(labels, ends)
    arrival = np.array([row.arrival_s for _, row in rows])
    return Trace(
        arrival - arrival[0],
        np.array([row.isl for _, row in rows], dtype=np.int64),
        np.array([row.osl for _, row in rows], dtype=np.int64),
        model,
        tuple(models.of),
        chains.shared(range(len(rows))),
        _sessions([row for _, row in rows]),
    )


def _chain(
    where: str, row: Row, hash_block: int | None, sizes: dict[str, int]
) -> tuple[list[object], list[int]]:
    """Return labels and ends of the prompt's prefix; `sizes`: of the prefixes so far."""
    if row.hash_ids:
        if hash_block is None:
            raise InputError(
                f"{where}: hash_ids without a block size",
                "needed: --hash-block, the tokens per hash id; 512 in Mooncake's own traces",
            )
        whole = -(-row.isl // hash_block)
        ids = row.hash_ids[:whole]
        return list(ids), [min((k + 1) * hash_block, row.isl) for k in range(len(ids))]
    if not row.prefix:
        return [], []
    known = sizes.setdefault(row.prefix, row.prefix_tokens)
    if known != row.prefix_tokens:
        raise InputError(
            f"{where}: prefix_tokens is {row.prefix_tokens}",
            f"expected: the same wherever prefix {row.prefix[:40]!r} stands ({known})",
        )
    return [f"prefix {row.prefix}"], [row.prefix_tokens]


def _sessions(rows: Sequence[Row]) -> Sessions | None:
    """Link turns in order of arrival; one with a think time waits for the previous answer."""
    if not any(row.session for row in rows):
        return None
    names, last = _Labels(), dict[str, int]()
    session, previous = np.full((2, len(rows)), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        if row.session:
            session[i] = names[row.session]
            if row.think_s > 0:
                previous[i] = last.get(row.session, -1)
            last[row.session] = i
    return Sessions(session, previous, np.array([row.think_s for row in rows]))


def read_lengths(path: Path) -> tuple[Ints, Ints]:
    """Read input and output tokens of each request of a trace, or of each conversation of a
    ShareGPT file (.json) at four characters per token."""
    if path.suffix == ".json":
        turns = [turn for turn in read_sharegpt(path) if turn.reply]
        if not turns:
            raise InputError(f"{path} has no answered turns")
        return _estimated([t.prompt for t in turns]), _estimated([t.reply for t in turns])
    trace = read_trace(path, MAX_BLOCK)
    return trace.isl, trace.osl


def _estimated(texts: Sequence[str]) -> Ints:
    return np.array([max(1, round(len(text) / CHARACTERS_PER_TOKEN)) for text in texts])


def with_lengths(trace: Trace, lengths: tuple[Ints, Ints], seed: int) -> Trace:
    """Return `trace` with pairs of lengths drawn from `lengths`."""
    chosen = np.random.default_rng([seed, 50]).integers(0, len(lengths[0]), len(trace))
    return replace(trace, isl=lengths[0][chosen], osl=lengths[1][chosen])
