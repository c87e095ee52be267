"""Build tables from rows: check, put on a grid, measure the error, write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from kernel_tables.aiter import corrected
from kernel_tables.carried import carried_errors
from kernel_tables.checks import (
    Finding,
    Key,
    fastest,
    host_launches,
    impossible,
    memory_share,
    slower_kernels,
    slower_than_wide,
    slowness,
    without_spike,
)
from kernel_tables.errors import moved, point_errors, shape_errors
from kernel_tables.outliers import without_outliers
from kernel_tables.rows import Rows
from kernel_tables.tabulate import newest, tabulate
from shardwise.hardware.catalogue import load_catalogue
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates, rates_of
from shardwise.kernels.store import Entry, Table, write_file

LICENCES: Final = {
    "aiconfigurator-core 0.12.0": "Apache-2.0",
    "ROCm/aiter tuned tables of 22 August 2026": "MIT",
    "mk1-project/quickreduce": "MIT",
    "vLLM and AITER pull requests": "Apache-2.0, MIT",
}


class Summary(msgspec.Struct, frozen=True):
    """Errors of one table."""

    entry: Entry
    point: Array
    shape: Array
    moved: Array


@dataclass
class Built:
    """Results of the build, from which `docs/kernels.md` is written."""

    summaries: list[Summary]
    findings: list[Finding]
    rates: dict[str, Rates]
    carried: dict[str, dict[str, Array]]  #: class -> kind of relative -> errors


def compile_all(sources: Iterable[Mapping[Operator, Rows]], output: Path) -> Built:
    """Replace the tables and the index in `output`, once all of them are built."""
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent) as folder:
        built = _built(sources, Path(folder))
        for old in (*output.glob("*.xz"), *output.glob("index.json")):
            old.unlink()
        for new in Path(folder).iterdir():
            new.rename(output / new.name)
    return built


def _built(sources: Iterable[Mapping[Operator, Rows]], output: Path) -> Built:
    built = Built([], [], {}, {})
    for source in sources:
        for operator, rows in source.items():
            compile_one(operator, rows, output, built)
    write_index(output / "index.json", built)
    return built


def compile_one(operator: Operator, rows: Rows, output: Path, built: Built) -> None:
    """Write the tables of one class, one file per GPU."""
    rows, findings = corrected(operator, rows)
    built.findings += findings
    parts = {key: newest(part) for key, part in rows.tables()}
    rates = {gpu: rates_of(load_catalogue().gpu(gpu)) for gpu in sorted({key[0] for key in parts})}
    built.rates |= rates
    for check in (_launches, impossible, slower_kernels, slower_than_wide):
        findings = check(operator, parts, rates)
        built.findings += findings
        dropped = {finding.key for finding in findings if finding.dropped}
        parts = {key: part for key, part in parts.items() if key not in dropped}
    parts, findings = without_outliers(operator, parts, rates)
    built.findings += findings
    known: list[tuple[Entry, Table]] = []
    for gpu, datasheet in rates.items():
        mine = {key: part for key, part in parts.items() if key[0] == gpu}
        tables = []
        for offset, key in enumerate(mine):
            summary, table = _table(operator, key, mine, datasheet, built)
            summary = replace(summary, entry=replace(summary.entry, offset=offset))
            built.summaries.append(summary)
            known.append((summary.entry, table))
            tables.append(table)
        if tables:
            write_file(output / f"{operator.name}.{gpu}.xz", tables)
    built.carried[operator.name] = carried_errors(operator, known, rates)


def _launches(
    operator: Operator, parts: Mapping[Key, Rows], _rates: Mapping[str, Rates]
) -> list[Finding]:
    return host_launches(operator, parts)


def _table(
    operator: Operator, key: Key, parts: Mapping[Key, Rows], rates: Rates, built: Built
) -> tuple[Summary, Table]:
    part = parts[key]
    table, findings = without_spike(operator, key, tabulate(part))
    built.findings += findings
    gpu, engine, variant = key
    entry = Entry(
        operator=operator.name,
        gpu=gpu,
        engine=engine,
        variant=variant,
        versions=tuple(sorted(set(part.version.tolist()))),
        points=int((~np.isnan(table.log2_seconds)).sum()),
        launch_s=_rounded(fastest(part)),
        memory_share=_rounded(memory_share(operator, table, variant, rates)),
        slowness=_rounded(slowness(key, part, parts)),
        error=0.0,
        point_error=0.0,
        offset=0,
    )
    point = point_errors(operator, entry, table, rates)
    shape = shape_errors(operator, entry, table, rates)
    entry = replace(entry, error=_median(shape), point_error=_median(point))
    return Summary(entry, point, shape, moved(operator, entry, table, rates)), table


def _median(errors: Array) -> float:
    return _rounded(float(np.median(errors))) if len(errors) else 0.0


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def write_index(path: Path, built: Built) -> None:
    """Write the index: every table with its errors, and the datasheet rates."""
    rates = {}
    for gpu, known in sorted(built.rates.items()):
        row = asdict(known)
        del row["gpu_id"]
        rates[gpu] = row
    raw = {
        "licences": LICENCES,
        "rates": rates,
        "carried": {
            name: {kind: _median(errors) for kind, errors in kinds.items()}
            for name, kinds in built.carried.items()
        },
        "tables": [asdict(summary.entry) for summary in built.summaries],
    }
    lines = json.dumps(raw, separators=(",", ":")).replace('{"operator"', '\n{"operator"')
    path.write_text(lines + "\n", encoding="utf-8")
