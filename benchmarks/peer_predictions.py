"""aiconfigurator beside Shardwise, on the same measured rows.

    python benchmarks/peer_predictions.py --python /path/to/venv/bin/python [--write]

The venv holds aiconfigurator 0.12 (`pip install 'aiconfigurator>=0.12,<0.13'`, about 850 MB), which
is no dependency. Shardwise is judged on rows of a TP that its fit was without; the peer brings its
own measured kernels. `--write` keeps the result in results/aiconfigurator.json, which
`make accuracy` quotes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from accuracy import ROOT, calibration_rows, left_out
from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.build import mape
from shardwise.perfmodel.calibrate import problem_of
from shardwise.perfmodel.crossval import Miss
from shardwise.perfmodel.profiles import bundled_profile

RESULT: Final = ROOT / "results" / "aiconfigurator.json"
CHILD: Final = Path(__file__).parent / "peers" / "ask_aiconfigurator.py"
#: our ids -> theirs; weights are given as GEMM and expert precision
MODELS: Final = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "gpt-oss-120b": "openai/gpt-oss-120b",
}
METRICS: Final = ("ttft_s", "tpot_s")


def question(batch: Batch, i: int) -> dict[str, Any]:
    """Row `i` as the peer's arguments. Mean lengths, as the rows' lengths vary."""
    row, dtypes = batch.rows[i], {"fp8": "fp8", "bf16": "bfloat16"}
    asked: dict[str, Any] = {
        "model_path": MODELS[batch.key.model],
        "system_name": f"{batch.gpu.id}_sxm",
        "backend_name": batch.key.engine,
        "isl": round(row.isl),
        "osl": round(row.osl),
        "batch_size": int(row.concurrency),
        "tp_size": int(row.tp_size),
        "kvcache_quant_mode": dtypes[batch.key.kv_dtype],
    }
    if batch.arch.moe:
        return asked | {"moe_tp_size": int(row.tp_size), "moe_ep_size": 1}
    return asked | {"gemm_quant_mode": dtypes[batch.key.weight_dtype]}


def peer_errors(python: str, batches: Sequence[Batch]) -> tuple[str, list[dict[str, Any]]]:
    """The peer's version, and its errors by batch: log(predicted / measured) by metric."""
    asked = [question(b, i) for b in batches for i in range(len(b.rows))]
    done = subprocess.run(
        [python, "-I", str(CHILD)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    reply = json.loads(done.stdout)
    answers = iter(reply["answers"])
    found = []
    for batch in batches:
        own = [next(answers) for _ in batch.rows]
        errors: dict[str, Any] = {"refused": [a["error"] for a in own if "error" in a]}
        for metric in METRICS:
            observed = batch.observed(metric)
            use = np.isfinite(observed) & np.array([metric in a for a in own])
            if metric == "ttft_s":
                use &= ~np.array([bool(r.kv_limited) for r in batch.rows])
            theirs = np.array([float(a.get(metric, np.nan)) for a in own])
            errors[metric] = np.log(theirs[use] / observed[use])
        found.append(errors)
    return reply["version"], found


def _mape(errors: np.ndarray) -> float | None:
    return round(float(100 * np.mean(np.abs(np.expm1(errors)))), 1) if len(errors) else None


def our_errors() -> list[Miss]:
    """Every number of GPUs left out in turn."""
    problem = problem_of(group(calibration_rows())[0])
    return left_out(problem, bundled_profile(), ("layout",))


def compare(python: str) -> dict[str, Any]:
    """Mean errors of both by model, GPU, engine and metric."""
    rows = [r for r in calibration_rows() if r.mode == "closed_loop" and r.model in MODELS]
    batches, _ = group(rows)
    version, theirs = peer_errors(python, batches)
    ours, cells = our_errors(), []
    for batch, errors in zip(batches, theirs, strict=True):
        here = (batch.key.model, batch.gpu.id, batch.key.engine)
        for metric in METRICS:
            own = [m for m in ours if (m.row.model, m.gpu, m.engine) == here and m.metric == metric]
            peer = errors[metric]
            cells.append(
                {
                    "model": batch.key.model,
                    "gpu": batch.gpu.id,
                    "engine": batch.key.engine,
                    "weight_dtype": batch.key.weight_dtype,
                    "metric": metric,
                    "rows": len(own),
                    "shardwise_tp_left_out_pct": round(mape(own), 1),
                    "aiconfigurator_rows": len(peer),
                    "aiconfigurator_pct": _mape(peer),
                    "refused": sorted(set(errors["refused"]))[:1],
                }
            )
    return {"benchmark": "aiconfigurator", "version": version, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", required=True, help="Python of a venv with aiconfigurator.")
    parser.add_argument("--write", action="store_true", help=f"Write {RESULT.relative_to(ROOT)}.")
    given = parser.parse_args()
    found = compare(given.python)
    if given.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
