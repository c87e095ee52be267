"""What vLLM showed on an H100 is predicted by a profile that never saw it."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import vllm_h100
from shardwise.layout.arrays import Layouts
from shardwise.perfmodel.step import step_time
from shardwise.simulator.fleet import subject_for
from vllm_h100 import METRICS, MOE, Server, arrival_rows, predicted


@pytest.fixture(scope="module")
def servers() -> list[Server]:
    return msgspec.convert(
        json.loads(vllm_h100.MEASURED.read_text("utf-8"))["models"], list[Server]
    )


def test_arriving_requests_of_dense_models_are_simulated_as_measured(servers: list[Server]) -> None:
    _, errors = arrival_rows([s for s in servers if not s.new_prompts], None)
    medians = {name: statistics.median(errors[name]) for name in METRICS}
    assert all(len(errors[name]) == 5 for name in METRICS)
    assert medians["E2E mean"] < 3.0
    assert medians["E2E p90"] < 7.0
    assert medians["E2E p99"] < 8.0
    assert medians["TTFT mean"] < 10.0
    assert medians["ITL mean"] < 3.0


def test_three_more_dense_models_are_within_a_tenth(servers: list[Server]) -> None:
    _, errors = arrival_rows([s for s in servers if s.new_prompts], None)
    medians = {name: statistics.median(errors[name]) for name in METRICS}
    assert all(len(errors[name]) == 6 for name in METRICS)
    assert medians["E2E mean"] < 10.0
    assert medians["ITL mean"] < 10.0


def test_tpot_of_closed_loops_is_nearly_always_in_its_interval(servers: list[Server]) -> None:
    held = {
        (server.model, cell.in_flight, cell.isl): tpot.lo <= cell.steady["tpot_ms"] / 1e3 <= tpot.hi
        for server in servers
        for cell in server.cells
        if cell.in_flight is not None
        for tpot in [predicted(server, cell).metrics["tpot_s"]]
    }
    assert sum(held.values()) >= 0.9 * len(held), [key for key, yes in held.items() if not yes]


def page(name: str) -> str:
    return " ".join((vllm_h100.ROOT / "docs" / name).read_text("utf-8").split())


def test_the_page_says_what_single_streams_and_decode_steps_showed(servers: list[Server]) -> None:
    single = {s.model: s.cells[0] for s in servers if not s.new_prompts}
    (dense, *dense_rest), (moe, *moe_rest) = (
        [round(ttft) for ttft in single[model].times[:, 1].tolist()]
        for model in ("llama-3.1-8b", MOE)
    )
    text = page("vllm-on-h100.tail.md")
    assert f"{dense} ms to its first token with Llama 3.1 8B, {moe} ms with Qwen3 30B" in text
    took = f"{min(dense_rest)} to {max(dense_rest)} and {min(moe_rest)} to {max(moe_rest)} ms"
    assert took in text

    llama2 = next(server for server in servers if server.model == "llama-2-7b")
    steps = {c.in_flight: c for c in llama2.cells if c.in_flight and c.isl == 550}
    grown = steps[32].median_itl_ms - steps[1].median_itl_ms
    # 31 sequences of a mean of 675 tokens; 32 layers x 2 x 4096 x 2 bytes a token
    read = 31 * 675 * 32 * 2 * 4096 * 2 / 1e12
    assert f"grows by {grown:.2f} ms for {1e3 * read:.0f} GB" in text
    assert f"{read / (grown / 1e3):.1f} TB/s" in text
    predicted_ms = [1e3 * vllm_h100.decode_step_s(llama2, steps[n]) for n in (1, 32)]
    assert f"The prediction grows by {predicted_ms[1] - predicted_ms[0]:.1f} ms" in text


def test_the_page_says_how_long_a_step_with_a_new_prompt_took(servers: list[Server]) -> None:
    measured, predicted_ms = [], []
    for server in servers:
        for cell in server.cells if server.new_prompts else ():
            if cell.requests_per_s is None or cell.shared_prefix:
                continue
            mean = vllm_h100.values(cell.times[:, 1], cell.times[:, 2], cell.osl)["ITL mean"]
            # of the steps of a second, as many as prompts come take longer than the median ITL
            others = 1e3 / mean - cell.requests_per_s
            measured.append((1e3 - others * cell.median_itl_ms) / cell.requests_per_s)
            predicted_ms.append(1e3 * prompt_step_s(server.model, float(cell.isl)))
    (a, b, c), (x, y, z) = ([round(float(ms)) for ms in both] for both in (measured, predicted_ms))
    text = page("vllm-on-h100.tail.md")
    assert f"{a} ms with Qwen2.5 7B, {x} predicted" in text
    assert f"{b} ms with Mistral 7B, {y} predicted" in text
    assert f"{c} ms with Qwen3 14B, {z} predicted" in text


def prompt_step_s(model: str, tokens: float) -> float:
    """A step of a prompt alone, with the wait for its launches."""
    deployment = vllm_h100.deployment(model)
    setting, none, one = subject_for(deployment).setting, np.zeros(1), np.ones(1)
    kernels = setting.kernels(Layouts.of([deployment.layout]))
    step = step_time(setting, kernels, none, none, tokens * one, tokens / 2.0 * one)
    return float(step.total[0])


def test_limitations_say_how_much_longer_the_moe_model_took(servers: list[Server]) -> None:
    server = next(server for server in servers if server.model == MOE)
    longer = sorted(
        100.0 * (cell.times[:, 2].mean() / ours["E2E mean"] - 1.0)
        for cell, ours in vllm_h100.arrivals(server, None)
    )
    said = f"Qwen3 30B-A3B took {longer[0]:.0f} to {longer[-1]:.0f} % longer than simulated"
    assert said in page("limitations.md")


def test_limitations_say_how_far_public_traffic_is_off() -> None:
    found = json.loads((vllm_h100.ROOT / "results" / "traffic_h100.json").read_text("utf-8"))
    medians = found["median_error_pct"]
    text = page("limitations.md")
    assert f"the median error is {medians['ttft_mean']:.0f} % for the mean TTFT" in text
    assert f"[{medians['ttft_p99']:.0f} %](traffic.md) for its p99" in text
