"""What every answer of the Python API can do, whatever it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import pytest

from shardwise import (
    Deployment,
    Layout,
    Result,
    UnknownNameError,
    Workload,
    compare_kinds,
    plan,
    plan_percentiles,
    predict,
    simulate,
    simulate_day,
    study,
    study_layouts,
)
from shardwise.reports.files import table_csv

H200: Final = Deployment("llama-3.1-8b", "h200")
LOAD: Final[dict[str, Any]] = {"isl": 1000, "osl": 200}
SHORT: Final[dict[str, Any]] = {"isl": 200, "osl": 20}

ANSWERS: Final[dict[str, Callable[[], Result]]] = {
    "plan": lambda: plan("llama-3.1-8b", gpu="h200", gpus=2, concurrency=16, **LOAD),
    "plan of two models": lambda: plan(
        ["llama-3.1-8b"] * 2, gpu="h200", gpus=2, concurrency=8, **LOAD
    ),
    "kinds": lambda: compare_kinds(
        "llama-3.1-8b", kinds=["h200", "h100"], gpus=2, concurrency=16, **LOAD
    ),
    "percentiles": lambda: plan_percentiles(
        "llama-3.1-8b", gpu="h200", gpus=1, request_rate=2.0, ttft_p99_s=2.0, **LOAD
    ),
    "study": lambda: study(
        "llama-3.1-8b", gpu="h200", gpus=2, tp_sizes=(1, 2), concurrencies=(1, 16)
    ),
    "layouts": lambda: study_layouts(
        "llama-3.1-8b", gpu="h200", layouts=["TP1", "TP2"], concurrencies=[8]
    ),
    "predictions": lambda: predict(H200, [Workload(1000, 200, c) for c in (1, 16)]),
    "simulation": lambda: simulate(H200, request_rate=4, duration_s=5, **SHORT),
    "day": lambda: simulate_day(H200, request_rates=[2.0], ttft_p99_s=2.0, **SHORT),
}


@cache
def answer(name: str) -> Result:
    return ANSWERS[name]()


every = pytest.mark.parametrize("name", ANSWERS)


@every
def test_the_main_table_comes_first_and_each_is_found_by_its_name(name: str) -> None:
    found = answer(name)
    tables = found.tables()
    assert found.table().name == tables[0].name
    for table in tables:
        assert found.table(table.name).name == table.name
        assert table.columns
    with pytest.raises(UnknownNameError, match="unknown table 'no-such'"):
        found.table("no-such")


@every
def test_json_is_the_same_on_one_line_and_on_many(name: str) -> None:
    found = answer(name)
    one = found.to_json(indent=0)
    assert "\n" not in one
    assert json.loads(one) == json.loads(found.to_json()) == found.to_dict()


@every
def test_a_notebook_and_print_show_the_words_and_the_table(name: str) -> None:
    found = answer(name)
    page, text = found._repr_html_(), str(found)
    assert page.count("<table>") == 1
    first = found.summary().splitlines()[0] if found.summary() else ""
    assert first in text
    assert found.table().rows[0][0].text in text
    assert "<script" not in page


@every
def test_charts_are_drawn_by_name_or_refused(name: str) -> None:
    found = answer(name)
    charts = found.charts()
    specs = {at: made.chart.to_dict() for at, made in charts.items()}
    for spec in specs.values():
        assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    if charts:
        last = list(charts)[-1]
        assert found.chart(last).chart.to_dict() == specs[last]
    else:
        with pytest.raises(UnknownNameError):
            found.chart()


@every
def test_every_table_has_a_csv_with_a_line_for_each_row(name: str) -> None:
    for table in answer(name).tables():
        lines = table_csv(table).splitlines()
        assert len(lines) == 1 + len(table.rows), table.name
        header = lines[0].split(",")
        assert len(header) == len(set(header)), table.name
        assert all(header), table.name


def test_a_deployment_of_the_plan_is_predicted_as_the_plan_says() -> None:
    best = answer("plan").best  # type: ignore[attr-defined]
    workload = best.evidence.workload
    (again,) = predict(best.deployment, workload).evidence
    assert again.metrics["tpot_s"].value == pytest.approx(
        best.evidence.metrics["tpot_s"].value, rel=1e-6
    )
    assert best.deployment.layout in {Layout(1, replicas=2), Layout(2)}
