"""Import rows in the format of measurements.csv, which `bench export` writes."""

from __future__ import annotations

from pathlib import Path

from shardwise.bench.importers.about import exactly
from shardwise.evidence.record import Evidence, Source
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.perfmodel.rows import ALL_QUEUED, Problem, Row, parse_rows, read_table
from shardwise.workload.workload import Mode, Workload

_MODES: dict[str, Mode] = {
    "static_batch": "static_batch",
    "closed_loop": "closed_loop",
    "max_throughput": "max_throughput",
}


def read_rows(path: Path) -> tuple[list[Evidence], list[Problem]]:
    """Return the evidence of every readable row, and a problem for each unreadable one."""
    _, table = read_table(path)
    rows, problems = parse_rows(table)
    return [_evidence(row) for row in rows if row.observed], problems


def _evidence(row: Row) -> Evidence:
    queued = row.concurrency >= ALL_QUEUED
    return Evidence(
        Deployment(
            model=row.model,
            gpu=row.gpu,
            layout=row.layout,
            dtypes=Dtypes(weight=row.weight_dtype, kv=row.kv_dtype or "auto"),
            engine=row.engine,
        ),
        Workload(
            row.isl,
            row.osl,
            int(row.concurrency),
            _MODES[row.mode],
            row.length_cv * 3.0**0.5,
            requests=0 if queued or row.mode != "closed_loop" else int(row.requests),
        ),
        {metric: exactly(value, 0) for metric, value in row.observed.items()},
        Source("measured", row.source or "CSV rows", "", "the source gives no interval"),
    )
