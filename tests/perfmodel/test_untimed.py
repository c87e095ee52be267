"""The built-in engine on a GPU: no table holds its kernels, and the intervals say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shardwise
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits
from shardwise.workload.workload import Workload

RESULTS = Path(__file__).parents[2] / "results" / "gpu_checks_h100.json"
SERVED = json.loads(RESULTS.read_text())["served"]["rows"]
#: as `shardwise serve` starts it
LIMITS = EngineLimits(max_num_seqs=64, max_num_batched_tokens=1024)


def told(engine: str, row: dict[str, float], gpu: str = "h100") -> shardwise.Predictions:
    deployment = Deployment(
        "llama-3.2-1b", gpu, engine=engine, dtypes=Dtypes("bf16", "bf16"), limits=LIMITS
    )
    load = Workload(
        int(row["isl"]), int(row["osl"]), int(row["concurrency"]), requests=int(row["requests"])
    )
    return shardwise.predict(deployment, load)


@pytest.mark.parametrize("row", SERVED, ids=lambda row: f"{row['concurrency']} in flight")
def test_its_measured_tpot_on_an_h100_is_in_the_interval(row: dict[str, float]) -> None:
    (found,) = told("builtin", row).evidence
    tpot = found.metrics["tpot_s"]
    assert tpot.lo <= row["tpot_ms"] / 1e3 <= tpot.hi
    assert "this engine's kernels were never timed on a GPU" in found.source.name


def test_a_served_engine_without_rows_on_the_gpu_is_surer() -> None:
    (own,) = told("builtin", SERVED[0]).evidence
    (other,) = told("vllm", SERVED[0], "l40s").evidence
    assert own.metrics["tpot_s"].hi / own.metrics["tpot_s"].value > 1.9
    assert other.metrics["tpot_s"].hi / other.metrics["tpot_s"].value < 1.9
    assert "never timed" not in other.source.name
