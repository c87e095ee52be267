"""From one rank to several: a TP that was emulated on one rank, beside the same TP measured.

    python benchmarks/one_to_many.py FOLDER [--out results/one_to_many.json]

FOLDER is what `shardwise study MODEL --measure -o FOLDER` wrote on a CPU, of a bundled model. One
rank runs its shard of each TP (`shardwise profile --emulate`), its all-reduces come from the
performance model. The sum is judged twice: by `shardwise profile` with all ranks, which has
everything but a server, and by the static batches that FOLDER measured through one.

Ranks on a CPU share its memory, GPUs do not. So the emulation runs alone, as on a lone GPU, and
beside as many copies of itself as the TP has other ranks. What it teaches: how far one GPU tells
about eight, and where the rest comes from. Wants a quiet machine. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from shardwise.evidence.measured import Measured
from shardwise.evidence.store import open_store

METRICS = {"tpot_ms": ("tpot_s", 1e-3), "e2e_s": ("e2e_latency_s", 1.0)}
REPEATS = 20
Told = dict[int, dict[str, float]]  #: seconds by batch and metric


def profiled(folder: Path, cell: Measured, batches: list[int], emulate: bool, copies: int) -> Told:
    """Rows of `shardwise profile` at the cell's TP, the mean of `copies` that run at once."""
    d, w = cell.evidence.deployment, cell.evidence.workload
    line = [sys.executable, "-m", "shardwise.cli.main", "profile", str(folder / d.model)]
    line += ["--random-weights", "--device", "cpu", "--dtype", d.dtypes.weight]
    line += ["--threads-per-rank", str(cell.conditions["threads_per_rank"])]
    line += ["--tp", str(d.tp_size), "--batch", ",".join(map(str, batches)), "--gpu", d.gpu]
    line += ["--isl", f"{w.isl:g}", "--osl", f"{w.osl:g}", "--repeats", str(REPEATS)]
    line += ["--emulate"] if emulate else []
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / f"{k}.csv" for k in range(copies)]
        running = [
            subprocess.Popen([*line, "-o", str(file)], stdout=subprocess.DEVNULL) for file in files
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError(" ".join(line))
        told = [read(file) for file in files]
    return {
        batch: {metric: fmean(t[batch][metric] for t in told) for metric in told[0][batch]}
        for batch in told[0]
    }


def read(file: Path) -> Told:
    with file.open() as handle:
        return {
            int(float(row["concurrency"])): {
                metric: float(row[column]) * factor for column, (metric, factor) in METRICS.items()
            }
            for row in csv.DictReader(handle)
        }


def compare(folder: Path) -> list[dict[str, Any]]:
    """A record a metric of each static batch of one replica with one thread a rank, in seconds."""
    with open_store(folder / "measured.db", create=False) as store:
        cells = [
            cell
            for cell in store.cells()
            if cell.usable
            and cell.evidence.workload.mode == "static_batch"
            and cell.conditions["threads_per_rank"] == 1
        ]
    found = []
    for tp in sorted({cell.evidence.deployment.tp_size for cell in cells}):
        own = [cell for cell in cells if cell.evidence.deployment.tp_size == tp]
        batches = [c.evidence.workload.concurrency for c in own]
        alone = profiled(folder, own[0], batches, emulate=True, copies=1)
        beside = profiled(folder, own[0], batches, emulate=True, copies=tp) if tp > 1 else alone
        ranks = profiled(folder, own[0], batches, emulate=False, copies=1)
        for cell in own:
            batch = cell.evidence.workload.concurrency
            for metric in alone[batch]:
                served = cell.evidence.metrics[metric]
                found.append(
                    {
                        "tp_size": tp,
                        "batch": batch,
                        "metric": metric,
                        "emulated_alone": alone[batch][metric],
                        "emulated_beside_copies": beside[batch][metric],
                        "all_ranks": ranks[batch][metric],
                        "served": [served.value, served.lo, served.hi, served.n],
                    }
                )
    return found


def error_pct(rows: list[dict[str, Any]], told: str, truth: str) -> float:
    """Mean |told / truth - 1| in percent."""
    truths = [row[truth][0] if truth == "served" else row[truth] for row in rows]
    return 100 * fmean(abs(row[told] / x - 1) for row, x in zip(rows, truths, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    rows = compare(asked.folder)
    for row in rows:
        print(
            f"TP={row['tp_size']} batch {row['batch']:3} {row['metric']:14} in ms: "
            f"emulated alone {1e3 * row['emulated_alone']:7.1f}, "
            f"beside copies {1e3 * row['emulated_beside_copies']:7.1f}; "
            f"all ranks {1e3 * row['all_ranks']:7.1f}, served {1e3 * row['served'][0]:7.1f}"
        )
    errors = {
        f"tp{tp} {told} against {truth}": round(
            error_pct([r for r in rows if r["tp_size"] == tp], told, truth), 1
        )
        for tp in sorted({r["tp_size"] for r in rows})
        for told in ("emulated_alone", "emulated_beside_copies")
        for truth in ("all_ranks", "served")
    }
    document = {"benchmark": "one_to_many", "mean_error_pct": errors, "rows": rows}
    if asked.out:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(json.dumps(document["mean_error_pct"]))


if __name__ == "__main__":
    main()
