"""One question, one answer: the Python API, `study`, `plan`, the explorer, a report and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shardwise import Deployment, Dtypes, EngineLimits, Layout, Workload, plan, predict, study
from shardwise.cli.main import cli
from shardwise.evidence.record import Evidence
from shardwise.reports.saved import read_study
from shardwise.web.asking import explorer, study_of
from shardwise.web.state import State

ISL, OSL, TP, BATCH = 1024, 256, 2, 16
METRICS = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")


def values(item: Evidence) -> dict[str, float]:
    return {name: item.metrics[name].value for name in METRICS}


@pytest.fixture(scope="module")
def ours() -> Evidence:
    asked: dict[str, Any] = {"gpu": "h200", "gpus": TP, "isl": ISL, "osl": OSL, "dtype": "fp8"}
    (cell,) = study("llama-3.1-70b", tp_sizes=(TP,), concurrencies=(BATCH,), **asked).evidence
    return cell


def test_predict_gives_the_studys_numbers(ours: Evidence) -> None:
    deployment = Deployment(
        "llama-3.1-70b", "h200", Layout(TP), ours.deployment.limits, Dtypes("fp8")
    )
    (found,) = predict(deployment, ours.workload).evidence
    assert values(found) == pytest.approx(values(ours))


def test_plan_gives_the_studys_numbers_where_limits_are_the_same(ours: Evidence) -> None:
    found = plan(
        "llama-3.1-70b", gpu="h200", gpus=TP, isl=ISL, osl=OSL, concurrency=BATCH, dtype="fp8"
    )
    same = next(c for c in found.candidates if c.deployment.layout == Layout(TP))
    limits: EngineLimits = same.deployment.limits
    deployment = Deployment("llama-3.1-70b", "h200", Layout(TP), limits, Dtypes("fp8"))
    (again,) = predict(deployment, Workload(ISL, OSL, BATCH, length_spread=None)).evidence
    assert values(again) == pytest.approx(values(same.evidence), rel=0.02)
    assert same.evidence.metrics["tpot_s"].value == pytest.approx(
        ours.metrics["tpot_s"].value, rel=0.02
    )


def test_the_explorer_shows_the_commands_study() -> None:
    state = State(model="llama-3.1-70b", gpu="h200", isl=ISL, osl=OSL)
    output = study_of(explorer(), state)
    question = output.study.question
    again = study(
        "llama-3.1-70b",
        gpu="h200",
        isl=ISL,
        osl=OSL,
        dtype="fp8",
        tp_sizes=question.tp_sizes,
        concurrencies=question.concurrencies,
        requests=question.requests,
        length_cv=question.length_cv,
    )
    assert again.output.study.evidence == output.study.evidence
    assert again.output.study.costs == output.study.costs


def test_the_command_and_its_folder_hold_the_same_study(ours: Evidence, tmp_path: Path) -> None:
    words = ["study", "llama-3.1-70b", "--gpu", "h200", "--gpus", str(TP), "--tp", str(TP)]
    words += ["--batch", str(BATCH), "--isl", str(ISL), "--osl", str(OSL), "--dtype", "fp8"]
    done = CliRunner().invoke(cli, [*words, "--json", "-o", str(tmp_path)], catch_exceptions=False)
    (printed,) = json.loads(done.stdout)["study"]["evidence"]
    assert {m: printed["metrics"][m]["value"] for m in METRICS} == pytest.approx(values(ours))
    (kept,) = read_study(tmp_path).study.evidence  # what `report` reads
    assert values(kept) == pytest.approx(values(ours))
