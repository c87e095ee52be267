"""What vLLM showed on an H100 is predicted by a profile that never saw it."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import vllm_h100
from vllm_h100 import METRICS, MOE, Server, arrival_rows, predicted


@pytest.fixture(scope="module")
def servers() -> list[Server]:
    return msgspec.convert(
        json.loads(vllm_h100.MEASURED.read_text("utf-8"))["models"], list[Server]
    )


def test_arriving_requests_of_dense_models_are_simulated_as_measured(servers: list[Server]) -> None:
    _, errors = arrival_rows(servers, None)
    medians = {name: statistics.median(errors[name]) for name in METRICS}
    assert all(len(errors[name]) == 5 for name in METRICS)
    assert medians["E2E mean"] < 3.0
    assert medians["E2E p90"] < 5.0
    assert medians["E2E p99"] < 7.0
    assert medians["TTFT mean"] < 10.0
    assert medians["ITL mean"] < 3.0


def test_tpot_of_closed_loops_is_in_its_interval(servers: list[Server]) -> None:
    held = {
        (server.model, cell.in_flight, cell.isl): tpot.lo <= cell.steady["tpot_ms"] / 1e3 <= tpot.hi
        for server in servers
        for cell in server.cells
        if cell.in_flight is not None
        for tpot in [predicted(server, cell).metrics["tpot_s"]]
    }
    assert [key for key, yes in held.items() if not yes] == [(MOE, 16, 2000)]
