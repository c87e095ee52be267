"""The answer as it is shown: bounds met or not, the interval as a share, one set of numbers
everywhere."""

from __future__ import annotations

import html
import json
import re
import shlex
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.reports.conftest import make

from shardwise.cli.main import cli
from shardwise.evidence.record import Interval
from shardwise.reports.about import KnownError
from shardwise.reports.answer import Ground, bound_chips, headline, plus_minus
from shardwise.reports.html.page import report_html
from shardwise.web.asking import explorer, study_of
from shardwise.web.payload import payload
from shardwise.web.state import State
from shardwise.workload.workload import Slo

STATES = [
    State(),
    State(model="gpt-oss-120b", gpu="h200", dtype="auto", isl=1024, osl=1024, tpot=20),
    State(model="deepseek-r1", gpu="b200", dtype="auto", ttft=0, tpot=0),
    State(gpu="h200", rate=2.0),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    # TPOT bound 50 ms
    [((40, 36, 44), "met"), ((48, 44, 53), "within"), ((51, 46, 57), "missed")],
)
def test_a_bound_is_met_by_the_whole_interval_by_the_value_or_not(
    value: tuple[float, float, float], expected: str
) -> None:
    cell = make(8, 16, 4.0, "predicted", 0)
    low, middle, high = (value[1] / 1e3, value[0] / 1e3, value[2] / 1e3)
    tpot = Interval(middle, low, high)
    (chip,) = bound_chips(Slo(tpot_s=0.05), replace(cell, metrics={"tpot_s": tpot}))
    assert (chip.text, chip.met) == ("TPOT ≤ 50 ms", expected)


def test_the_interval_is_half_its_width_in_percent_of_the_value() -> None:
    assert plus_minus(Interval(100, 91, 110)) == "± 10 %"  # (110 - 91) / 2 / 100 = 9.5
    assert plus_minus(Interval(100, 100, 100)) == ""
    shown = headline("TPOT", Interval(0.0485, 0.0445, 0.0529), "s")
    assert (shown.text, shown.unit, shown.bounds) == ("48.5", "ms", "44.5–52.9")


def test_the_ground_names_rows_and_what_they_lack() -> None:
    known = [KnownError("tpot_s", 1, 18.1, None), KnownError("e2e_latency_s", 183, 7.9, None)]
    ground = Ground("mi300x", "vllm", known, {"TP1": ("layout not seen",), "TP8": ()})
    rows = "183 rows of mi300x with vllm, mean error 7.9 % in E2E latency, 18.1 % in TPOT (n=1)."
    assert ground.words("TP1") == f"Not measured (layout not seen): {rows}"
    assert ground.words("TP8") == f"Measured: {rows}"
    assert "Measure first" in Ground("b300", "vllm").words("TP1")


def test_the_price_shown_is_the_one_that_the_cost_rests_on() -> None:
    (online, *_) = payload(explorer(), State(gpu="h200", price=3.25))["answers"]
    assert online["line"].endswith(", 3.25 USD per GPU-hour")


def planned(command: str) -> dict[str, Any]:
    """The first of the ranking that the `shardwise plan` command of the page prints as JSON."""
    words = shlex.split(command)
    assert words[:2] == ["shardwise", "plan"]
    assert words[-2:] == ["--save", "deployment.toml"]
    found = CliRunner().invoke(cli, [*words[1:-2], "--json"], catch_exceptions=False)
    return dict(json.loads(found.stdout)["ranked"][0])


def expected_numbers(best: dict[str, Any], gpus: int) -> list[tuple[str, str]]:
    """Text and range of throughput per GPU, TPOT and cost, worked out from the plan's JSON."""

    def interval(raw: dict[str, float], factor: float = 1.0) -> Interval:
        return Interval(raw["value"] * factor, raw["lo"] * factor, raw["hi"] * factor)

    tpot = interval(best["evidence"]["metrics"]["tpot_s"])
    cost = next(best[k] for k in best if k.startswith(("usd_per", "gpu_hours")))
    shown = [
        headline("", interval(best["node_output_tok_s"], 1 / gpus), "tok/s per GPU"),
        headline("", tpot, "s"),
        headline("", interval(cost), ""),
    ]
    return [(h.text, h.bounds) for h in shown]


@pytest.mark.parametrize("state", STATES)
def test_plan_explorer_and_report_show_the_same_numbers(state: State) -> None:
    shown = payload(explorer(), state)
    best = planned(shown["terminal"][1])
    layout = best["evidence"]["deployment"]["layout"]
    numbers = expected_numbers(best, state.gpus)

    card = shown["answers"][0]
    assert card["title"].startswith(f"{layout['replicas']} × ")
    assert [(n["text"], n["bounds"]) for n in card["numbers"]] == numbers

    page = html.unescape(report_html(study_of(explorer(), state)))
    assert f'<h2 id="answer-title">{card["title"]}</h2>' in page
    first = page[: page.index('class="offline"')]
    assert re.findall(r'class="value">([^<]*)<', first) == [text for text, _ in numbers]
    ranges = re.findall(r"<span>\(([^)]*)\)</span>", first)
    assert ranges == [bounds for _, bounds in numbers if bounds]
