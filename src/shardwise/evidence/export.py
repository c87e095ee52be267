"""Export measured cells: rows for `validate` and `calibrate`, JSON, Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.evidence.measured import Measured
from shardwise.evidence.portable import portable
from shardwise.evidence.record import Evidence
from shardwise.files import replacing

#: workload mode -> its name in rows
MODES: Final = {
    "static_batch": "offline_latency_static_batch",
    "closed_loop": "serving_closed_loop",
    "max_throughput": "offline_throughput_inf_rate",
}
#: column -> (metric, factor from SI)
METRICS: Final = {
    "e2e_s": ("e2e_latency_s", 1.0),
    "ttft_ms": ("ttft_s", 1e3),
    "tpot_ms": ("tpot_s", 1e3),
    "total_tok_s": ("total_tok_s", 1.0),
    "output_tok_s": ("output_tok_s", 1.0),
}
#: a steady window has no first burst, like a run with infinitely many waves
STEADY_WAVES: Final = 1000
COLUMNS: Final = (
    *("source_id", "model_id", "gpu_id", "engine_id", "engine", "weight_dtype", "kv_dtype"),
    *("tp", "pp", "mode", "concurrency", "isl", "osl", "requests", "length_cv"),
    *METRICS,
    *("kv_limited", "measured_on", "use"),
)


def _values(cell: Measured) -> dict[str, float]:
    """Return the measured columns of one replica; replicas with work share the load equally."""
    e = cell.evidence
    share = {metric: 1.0 / _busy(e) for metric in ("total_tok_s", "output_tok_s")}
    return {
        column: e.metrics[metric].value * factor * share.get(metric, 1.0)
        for column, (metric, factor) in METRICS.items()
        if metric in e.metrics
    }


def _busy(evidence: Evidence) -> int:
    return min(evidence.deployment.replicas, evidence.workload.concurrency)


def row_of(cell: Measured) -> dict[str, Any]:
    """Return one cell as a row of one replica; unmeasured metrics are empty."""
    e = cell.evidence
    d, w = e.deployment, e.workload
    versions: Mapping[str, str] = cell.conditions.get("versions") or {}
    engine = "shardwise" if d.engine == "builtin" else d.engine
    version = versions.get(engine) or versions.get(f"{engine}-cpu") or ""
    closed, values, slots = w.mode == "closed_loop", _values(cell), w.concurrency / _busy(e)
    return {
        "source_id": f"shardwise_bench_{cell.study}",
        "model_id": d.model,
        "gpu_id": d.gpu,
        "engine_id": d.engine,
        "engine": f"{d.engine} {version}".strip(),
        "weight_dtype": "" if d.dtypes.weight == "auto" else d.dtypes.weight,
        "kv_dtype": "" if d.dtypes.kv == "auto" else d.dtypes.kv,
        "tp": d.tp_size,
        "pp": d.pp_size,
        "mode": MODES[w.mode],
        "concurrency": int(slots) if slots.is_integer() else slots,
        "isl": f"{w.isl:g}",
        "osl": f"{w.osl:g}",
        "length_cv": f"{w.length_cv:.4g}",
        "requests": (w.requests or STEADY_WAVES * w.concurrency) if closed else "",
        **{column: f"{values[column]:.6g}" if column in values else "" for column in METRICS},
        "kv_limited": "",
        "measured_on": e.source.date,
        "use": "calibrate",
    }


def why_not_a_row(cell: Measured) -> str:
    """Return the reason why CSV and Parquet leave out a cell; "" if they do not.

    Rows have a fixed number of requests in flight. They cannot express arrivals at a rate or of a
    trace. Of a shared prefix, they need the part that was in the cache, which servers do not tell.
    """
    if cell.why_unusable:
        return cell.why_unusable
    if cell.evidence.workload.request_rate is not None:
        return "at a request rate, which rows cannot express"
    if _is_traced(cell):
        return "with a trace's arrivals, which rows cannot express"
    if cell.conditions.get("shared_prefix"):
        return "with a shared prefix, of which rows need the cached part"
    return ""


def _is_traced(cell: Measured) -> bool:
    return bool(cell.conditions.get("trace")) or " trace=" in cell.key  # older cells: the key alone


def exported(cells: Sequence[Measured]) -> list[Measured]:
    """Return the cells that are rows of CSV and Parquet."""
    return [cell for cell in cells if not why_not_a_row(cell)]


def _csv(cells: Sequence[Measured], path: Path) -> int:
    chosen = exported(cells)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(row_of(cell) for cell in chosen)
    return len(chosen)


def _json(cells: Sequence[Measured], path: Path) -> int:
    document = portable([replace(cell, repeats=()) for cell in cells])
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    return len(cells)


def _parquet(cells: Sequence[Measured], path: Path) -> int:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow", remedy="run: pip install 'shardwise[parquet]'"
        ) from None
    chosen = exported(cells)
    rows = [{**row_of(c), **_values(c)} for c in chosen]
    cleaned = [{k: None if v == "" else v for k, v in row.items()} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(cleaned), path)
    return len(chosen)


FORMATS: Final[Mapping[str, Callable[[Sequence[Measured], Path], int]]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}


def write(cells: Sequence[Measured], path: Path) -> int:
    """Write `cells` atomically in the format of `path`'s suffix; return how many were written.

    CSV and Parquet contain the cells that can be compared with predictions. JSON contains all
    cells, without raw requests and local paths. Rows in CSV and Parquet name a local model by its
    path, so that `validate` and `calibrate` can find it.
    """
    try:
        with replacing(path) as partial:
            return FORMATS[path.suffix](cells, partial)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
