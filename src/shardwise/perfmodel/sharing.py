"""Write a profile as one file to share.

The file has the profile, its error, the GPUs and engine versions, and the measured rows, so that
the receiver can check it and calibrate again. It has no host name and no path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import shardwise
from shardwise.errors import InputError
from shardwise.evidence.portable import portable
from shardwise.files import write_whole
from shardwise.perfmodel.batches import GpuOf
from shardwise.perfmodel.build import Personal
from shardwise.perfmodel.profiles import FORMAT, FORMAT_VERSION
from shardwise.perfmodel.rows import Row


def shared(made: Personal, rows: Sequence[Row], gpu_of: GpuOf) -> dict[str, Any]:
    """Return the document of a shared profile, as plain data.

    Args:
        made: The profile and its errors.
        rows: Rows of the calibration.
        gpu_of: Looks up the GPU of an id. GPUs are written in full, because one that the user added
            is not in the catalogue of others.
    """
    used = [row for row in rows if row.observed]
    versions = {f"{row.engine} {row.version}".strip() for row in used}
    gpus = {gpu.id: gpu for gpu in (gpu_of(row.gpu, row.engine) for row in used)}
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "shardwise": shardwise.__version__,
        "engines": sorted(versions),
        "hardware": [gpus[name] for name in sorted(gpus)],
        "error_pct": {"before": made.before_pct, "after_cross_validated": made.after_pct},
        "rows": [_row(row) for row in used],
        "profile": made.profile,
    }
    found: dict[str, Any] = portable(document)
    return found


def _row(row: Row) -> Mapping[str, Any]:
    return {
        "model": row.model,
        "gpu": row.gpu,
        "engine": row.engine,
        "engine_version": row.version,
        "weight_dtype": row.weight_dtype,
        "kv_dtype": row.kv_dtype,
        "layout": row.layout,
        "mode": row.mode,
        "concurrency": row.concurrency,
        "isl": row.isl,
        "osl": row.osl,
        "requests": row.requests,
        "observed": row.observed,
    }


def save_shared(path: Path, document: Mapping[str, Any]) -> None:
    """Write a shared profile atomically. Raises InputError if it cannot be written."""
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
