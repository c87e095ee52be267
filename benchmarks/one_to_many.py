"""From one rank to several: a TP that was emulated on one rank, beside the same TP measured.

    python benchmarks/one_to_many.py FOLDER [--out results/one_to_many.json]

FOLDER is what `shardwise study MODEL --measure -o FOLDER` wrote on a CPU, of a bundled model. One
rank runs its shard of each TP alone (`shardwise profile --emulate`), its all-reduces come from the
performance model, and the sum is judged by the static batches that FOLDER measured with all ranks.
What it teaches: how far one GPU tells about eight. Wants a quiet machine. Prints one JSON line.
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


def emulated(folder: Path, cell: Measured, batches: list[int]) -> dict[int, dict[str, float]]:
    """Rows of `shardwise profile --emulate` at the cell's TP, by batch, in SI."""
    d, w = cell.evidence.deployment, cell.evidence.workload
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows.csv"
        line = [sys.executable, "-m", "shardwise.cli.main", "profile", str(folder / d.model)]
        line += ["--emulate", "--random-weights", "--device", "cpu", "--dtype", d.weight_dtype]
        line += ["--threads-per-rank", str(cell.conditions["threads_per_rank"])]
        line += ["--tp", str(d.tp_size), "--batch", ",".join(map(str, batches))]
        line += ["--isl", f"{w.isl:g}", "--osl", f"{w.osl:g}", "--gpu", d.gpu]
        subprocess.run([*line, "-o", str(rows)], check=True, capture_output=True)
        with rows.open() as handle:
            return {
                int(float(row["concurrency"])): {
                    metric: float(row[column]) * factor
                    for column, (metric, factor) in METRICS.items()
                }
                for row in csv.DictReader(handle)
            }


def compare(folder: Path) -> list[dict[str, Any]]:
    """A record a static batch of one replica with one thread a rank, each metric's two values."""
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
        told = emulated(folder, own[0], [c.evidence.workload.concurrency for c in own])
        for cell in own:
            batch, metrics = cell.evidence.workload.concurrency, cell.evidence.metrics
            for metric, value in told[batch].items():
                measured = metrics[metric]
                found.append(
                    {
                        "tp_size": tp,
                        "batch": batch,
                        "metric": metric,
                        "emulated": value,
                        "measured": [measured.value, measured.lo, measured.hi, measured.n],
                        "error_pct": 100.0 * (value / measured.value - 1.0),
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    rows = compare(asked.folder)
    for row in rows:
        print(
            f"TP={row['tp_size']} batch {row['batch']:3} {row['metric']:14} emulated "
            f"{1e3 * row['emulated']:8.1f} ms, measured {1e3 * row['measured'][0]:8.1f} ms "
            f"({row['error_pct']:+.0f} %)"
        )
    errors = {
        f"tp{tp} {metric}": fmean(
            abs(r["error_pct"]) for r in rows if (r["tp_size"], r["metric"]) == (tp, metric)
        )
        for tp, metric in sorted({(r["tp_size"], r["metric"]) for r in rows})
    }
    document = {"benchmark": "one_to_many", "mean_error_pct": errors, "rows": rows}
    if asked.out:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
