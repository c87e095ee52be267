"""Write JSON and CSV files of evidence and tables, and other files, atomically.

The output folder is checked before work starts. Each file is written under a temporary name in the
same folder and then renamed.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec

from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval
from shardwise.files import write_whole
from shardwise.layout.deployment import Deployment
from shardwise.reports.table import Cell, Table


def prepare_folder(path: Path) -> Path:
    """Create `path` with its parents and check that files can be written there.

    Call this before starting work. Raises InputError if the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(f"output folder {path}", error) from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` (evidence, records, mappings, numbers) as indented JSON; NaN becomes null."""
    return write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_csv(path: Path, table: Table) -> Path:
    """Write `table` with raw values in the units of its column names (SI)."""
    return write_bytes(path, table_csv(table).encode())


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Path:
    """Write rows as CSV with the columns of `header`; other cells are left out."""
    lines = [[row.get(name, "") for name in header] for row in rows]
    return write_bytes(path, _csv([header, *lines]).encode())


def write_evidence_csv(path: Path, evidence: Iterable[Evidence]) -> Path:
    """Write one line per result: deployment, workload, each metric with interval and n, source."""
    return write_bytes(path, evidence_csv(evidence).encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path` atomically. Raises InputError if it cannot be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise _unwritable(f"file {path}", error) from error
    return path


def table_csv(table: Table) -> str:
    """Return `table` as CSV. A column with intervals becomes value, `_lo`, `_hi` and `_n`."""
    header, lines = table_values(table)
    return _csv([header, *lines])


def table_values(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return column names and rows of `table` in SI units, as in its CSV file."""
    spread = [any(isinstance(row[i].value, Interval) for row in table.rows)
              for i in range(len(table.columns))]  # fmt: skip
    header: list[str] = []
    for column, has_interval in zip(table.columns, spread, strict=True):
        header += _names(column.name) if has_interval else [column.name]
    lines = [
        [field for cell, wide in zip(row, spread, strict=True) for field in _fields(cell, wide)]
        for row in table.rows
    ]
    return header, lines


def evidence_csv(evidence: Iterable[Evidence]) -> str:
    """Return `evidence` as CSV, columns as in the record; metrics as value, `_lo`, `_hi` and
    `_n`."""
    items = list(evidence)
    metrics = list(dict.fromkeys(name for item in items for name in item.metrics))
    causes = list(dict.fromkeys(cause for item in items for cause in item.breakdown))
    flat = [_flat(item) for item in items]
    header = [*(flat[0] if flat else ()), *(n for m in metrics for n in _names(m))]
    header += [f"{cause}_s" for cause in causes]
    lines = [
        [
            *fields.values(),
            *(field for m in metrics for field in _interval(item.metrics.get(m))),
            *(item.breakdown.get(cause, "") for cause in causes),
        ]
        for item, fields in zip(items, flat, strict=True)
    ]
    return _csv([header, *lines])


def _flat(item: Evidence) -> dict[str, Any]:
    source = {f"source_{k}": v for k, v in msgspec.to_builtins(item.source).items()}
    workload: dict[str, Any] = msgspec.to_builtins(item.workload)
    return {**source, **_flat_deployment(item.deployment), **workload}


def _flat_deployment(deployment: Deployment) -> dict[str, Any]:
    """Flatten a deployment; dtypes have the column names of rows."""
    built = msgspec.to_builtins(deployment)
    layout, limits, dtypes = (built.pop(part) for part in ("layout", "limits", "dtypes"))
    named = {f"{key}_dtype": value for key, value in dtypes.items()}
    return {**built, **layout, **limits, **named}


def _names(name: str) -> list[str]:
    return [name, f"{name}_lo", f"{name}_hi", f"{name}_n"]


def _fields(cell: Cell, wide: bool) -> Sequence[Any]:
    if not wide:
        return ["" if cell.value is None else cell.value]
    if isinstance(cell.value, Interval) or cell.value is None:
        return _interval(cell.value)
    return [cell.value, "", "", ""]


def _interval(value: Interval | None) -> Sequence[Any]:
    return ["", "", "", ""] if value is None else [value.value, value.lo, value.hi, value.n]


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _unwritable(what: str, error: OSError) -> InputError:
    return InputError(
        f"{what} cannot be written ({error.strerror or error})",
        "allowed: a writable folder",
        "choose another, or change its permissions",
    )
