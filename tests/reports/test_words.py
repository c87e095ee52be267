"""Sentences and short names of an answer: prices, layouts, bounds, rates, what was not found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.reports.conftest import make

from shardwise.analysis.advice import Advice, NoAdvice
from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.grid import Grid, index
from shardwise.analysis.layouts import LayoutStudy
from shardwise.analysis.run import Question
from shardwise.evidence.record import Interval
from shardwise.hardware.catalogue import Price, load_catalogue
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.reports.advice_words import advice_lines, copies_and_tp, how_sure
from shardwise.reports.answer import (
    Ground,
    Shown,
    answers_of,
    bound_chips,
    in_flight,
    price_words,
    rate_chips,
    shown_of,
    three_numbers,
    title_of,
)
from shardwise.reports.answering import memory_of_each_gpu
from shardwise.reports.cells import lengths
from shardwise.reports.prices import price_note
from shardwise.workload.workload import Slo, Workload


def advice(grid: Grid, tp: int, batch: int, slo: Slo, price: float | None = 2.0) -> Advice:
    costs = node_costs(grid, Node(8, price), ["full_node"])
    choice = next(c for c in costs if (c.tp_size, c.concurrency) == (tp, batch))
    return Advice("online", slo, choice, grid[tp, batch], certain=False)


def test_advice_is_one_sentence_with_bounds_layout_performance_and_what_a_failure_leaves(
    grid: Grid,
) -> None:
    (line,) = advice_lines([advice(grid, 2, 16, Slo(tpot_s=0.06))])
    # four copies of TP=2: 4 x 16 x 101 tokens every 6.5 s; 8 x 2 USD/h; one of four lost
    assert line.startswith("online (TPOT <= 60 ms): 4 replicas at TP2, batch 16 each. 994 tok/s ±")
    assert "TTFT 1.30 s ±10%, TPOT 52.0 ms ±10%, 4.47 USD/Mtok ±" in line
    assert "if one GPU fails, 75 % of the capacity remains. Part of the 80 % interval" in line


def test_one_replica_has_no_each_and_loses_everything(grid: Grid) -> None:
    found = advice(grid, 8, 128, Slo())
    assert copies_and_tp(found) == "1 replica at TP8, batch 128"
    assert "if one GPU fails, 0 % of the capacity remains" in advice_lines([found])[0]
    assert how_sure(found) == ""  # nothing was asked
    bounded = replace(found, slo=Slo(ttft_s=9.0), certain=True)
    assert how_sure(bounded) == "The whole 80 % interval meets the target."


def test_where_nothing_meets_the_bounds_the_nearest_is_named() -> None:
    missed = NoAdvice("online", Slo(ttft_s=0.5, tpot_s=0.01), "TP8 misses TPOT by 12 %")
    assert advice_lines([missed]) == [
        "online (TTFT <= 500 ms and TPOT <= 10 ms): nothing meets this; nearest: "
        "TP8 misses TPOT by 12 %."
    ]
    (answer,) = answers_of([missed], None, Ground("mi300x", "vllm"))
    assert (answer.found, answer.title) == (False, "Nothing meets this")
    assert answer.why == "Nearest: TP8 misses TPOT by 12 %."
    assert answer.asked == "TTFT ≤ 500 ms, TPOT ≤ 10 ms"


@pytest.mark.parametrize(
    ("layout", "title"),
    [
        (Layout(1, replicas=8), "8 × TP1"),
        (Layout(8), "1 × TP8"),
        (Layout(2, ep_size=2, replicas=4), "4 × (TP2 × EP2)"),
        (Layout(1, attention_dp=8, ep_size=8), "1 × (DP8 × EP8)"),
    ],
)
def test_a_layout_of_several_kinds_is_in_brackets(layout: Layout, title: str) -> None:
    assert title_of(layout) == title


def test_the_numbers_are_per_gpu_and_the_price_is_worked_back_from_the_cost(grid: Grid) -> None:
    shown = shown_of(advice(grid, 2, 16, Slo(), 1.95))
    throughput, tpot, cost = three_numbers(shown)
    # 994.46 tok/s of eight GPUs
    assert (throughput.text, throughput.unit) == ("124", "tok/s per GPU")
    assert (tpot.text, tpot.unit, tpot.bounds) == ("52.0", "ms", "47.3–57.2")
    # 8 x 1.95 USD/h / (994.46 x 3600 tok/h) x 1e6
    assert (cost.text, cost.unit) == ("4.36", "USD/Mtok")
    assert shown.usd_per_gpu_hour == pytest.approx(1.95)
    assert price_words(shown) == "1.95 USD per GPU-hour"
    assert shown.evidence.deployment.replicas == 4
    assert in_flight(shown.evidence) == "16 in flight each"


@pytest.mark.parametrize(
    ("price", "words"),
    [(2.0, "2.00"), (1.6, "1.60"), (0.1234567, "0.1235"), (1234.5, "1,234.50")],
)
def test_a_price_has_cents_or_four_digits(grid: Grid, price: float, words: str) -> None:
    assert price_words(shown_of(advice(grid, 2, 16, Slo(), price))) == f"{words} USD per GPU-hour"


def test_without_a_price_the_cost_is_in_gpu_hours_and_no_price_is_said(grid: Grid) -> None:
    shown = shown_of(advice(grid, 2, 16, Slo(), None))
    assert shown.usd_per_gpu_hour is None
    assert price_words(shown) == ""
    # 8 GPU-hours an hour / (994.46 x 3600) x 1e6
    assert (three_numbers(shown)[2].text, three_numbers(shown)[2].unit) == ("2.23", "GPU-h/Mtok")


def test_a_result_without_tpot_shows_two_numbers() -> None:
    cell = make(1, 16, 10.0, "predicted", 0)
    bare = index([replace(cell, metrics={k: v for k, v in cell.metrics.items() if k != "tpot_s"})])
    shown = shown_of(advice(bare, 1, 16, Slo()))
    assert [n.label for n in three_numbers(shown)] == ["Throughput", "Cost"]
    assert bound_chips(Slo(tpot_s=0.01), shown.evidence) == ()


class Rated(LayoutStudy, frozen=True):
    """A study whose layouts hold 4 requests/s, 3.5 to 4.6."""

    def most_carried(self, layout: str) -> Interval | None:
        return Interval(4.0, 3.5, 4.6) if layout == "TP8" else None


@pytest.mark.parametrize(
    ("rate", "met"), [(3.0, "met"), (3.8, "within"), (4.0, "within"), (5.0, "missed")]
)
def test_a_rate_is_met_by_the_whole_interval_by_the_value_or_not(rate: float, met: str) -> None:
    study = Rated((), (), (), (), (), {}, rate, 101)
    (chip,) = rate_chips(study, "TP8")
    assert (chip.text, chip.met) == (f"{rate:g} requests/s", met)
    assert chip.detail == "at most 4.00 (3.50–4.60)"
    (none,) = rate_chips(study, "TP4")
    assert (none.met, none.detail) == ("missed", "misses the bounds at any rate")
    assert rate_chips(None, "TP8") == ()


def test_lengths_name_what_is_cached() -> None:
    assert lengths(Workload(4096, 512, 1)) == "4096 in / 512 out"
    assert lengths(Workload(4096, 512, 1, cached_tokens=3072)) == "4096 in (3072 cached) / 512 out"


def test_a_price_names_its_source_and_date() -> None:
    known = Price("h200", 2.5, "CoreCloud", "on demand", "their page", "2026-01-02")
    assert price_note(known) == (
        "price: 2.5 USD per GPU-hour (CoreCloud, on demand, their page, 2026-01-02)"
    )
    assert price_note(Price("h200", 2.0, "given by the user", "", "", "")) == (
        "price: 2 USD per GPU-hour (given by the user)"
    )
    assert price_note(None) == ""


def test_a_shown_layout_has_its_replicas_and_the_node_s_throughput(grid: Grid) -> None:
    cost = Interval(4.0, 3.0, 5.0)
    item = replace(grid[2, 16], deployment=grid[2, 16].deployment.with_layout(replicas=4))
    shown = Shown(item, Interval(800.0, 720.0, 880.0), cost, "usd_per_million_output_tok", 8)
    assert (shown.layout, shown.title) == ("TP2", "4 × TP2")
    assert shown.tok_s_per_gpu == Interval(100.0, 90.0, 110.0)


def test_a_machine_measured_here_is_in_no_study_of_another_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDWISE_HOME", str(tmp_path))
    page = Path(__file__).parents[2] / "docs/howto/hardware.md"
    block = re.search(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert block is not None
    mine = tmp_path / "hardware" / "mine.toml"
    mine.parent.mkdir()
    mine.write_text(block[1].replace("gpu.mi308x", "gpu.mine"))
    catalogue = load_catalogue([mine])
    assert catalogue.gpu("mine").status == "released"
    subject, _ = subject_of(Asked("llama-3.1-8b", "h200"))
    question = Question(1, (1,), (1,), 100, 100)

    def listed(gpu: str) -> set[str]:
        asked = replace(subject, gpu=catalogue.gpu(gpu))
        return {use.gpu for use in memory_of_each_gpu(asked, catalogue, question)}

    assert "mine" not in listed("h200")
    assert {"mine", "h200"} <= listed("mine")
