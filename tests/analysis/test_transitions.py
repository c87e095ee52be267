from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.analysis.grid import index
from shardwise.analysis.transitions import (
    Step,
    compare,
    mean_absolute_error_points,
    transitions,
)
from shardwise.evidence.record import Evidence, Interval, Source

MakeEvidence = Callable[..., Evidence]

latencies = st.lists(st.floats(0.01, 100), min_size=2, max_size=4)
TPS = (1, 2, 4, 8)


def step(metric: str, change: float, source: str = "a", from_tp: int = 1, to_tp: int = 2) -> Step:
    where = Source("predicted", source)
    return Step(metric, 16, from_tp, to_tp, Interval(change, change, change), where)


def test_steps_go_up_then_down_between_neighbouring_tps(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 16, 10.0), evidence(2, 16, 6.0), evidence(8, 16, 3.0)])
    steps = transitions(grid, ["e2e_latency_s"])
    assert [(s.from_tp, s.to_tp) for s in steps] == [(1, 2), (2, 8), (8, 2), (2, 1)]
    # 6/10 - 1, 3/6 - 1, 6/3 - 1, 10/6 - 1
    assert [s.change_pct.value for s in steps] == pytest.approx([-40, -50, 100, 66.6667])


def test_a_cell_that_does_not_fit_makes_no_step(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 16, 9.0), evidence(2, 16, 6.0), evidence(2, 128, 20.0)])
    assert {s.concurrency for s in transitions(grid)} == {16}


def test_less_latency_and_more_throughput_are_better(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 16, 10.0), evidence(2, 16, 6.0)])
    verdicts = {(s.metric, s.is_up): s.verdict for s in transitions(grid)}
    assert verdicts == {
        ("e2e_latency_s", True): "better",
        ("e2e_latency_s", False): "worse",
        ("total_tok_s", True): "better",
        ("total_tok_s", False): "worse",
    }


def test_no_change_is_neither_better_nor_worse() -> None:
    assert step("e2e_latency_s", 0.0).verdict == "same"


def test_shared_error_makes_the_direction_of_a_small_step_clear(evidence: MakeEvidence) -> None:
    # 10 % either way on each cell hides a 5 % step unless nearly all of that error is shared
    grid = index([evidence(4, 16, 10.0), evidence(8, 16, 9.5)])
    independent = transitions(grid, ["e2e_latency_s"])[0]
    shared = transitions(grid, ["e2e_latency_s"], rho=0.95)[0]
    assert not independent.is_clear
    assert shared.is_clear


@given(latencies, st.floats(0, 1))
def test_up_and_down_steps_invert(evidence: MakeEvidence, values: list[float], rho: float) -> None:
    grid = index([evidence(tp, 16, v) for tp, v in zip(TPS, values, strict=False)])
    steps = {(s.metric, s.from_tp, s.to_tp): s for s in transitions(grid, rho=rho)}
    for (metric, a, b), up in steps.items():
        assert up.ratio * steps[metric, b, a].ratio == pytest.approx(1)


@given(latencies)
def test_throughput_steps_are_the_inverse_of_latency_steps_in_a_closed_loop(
    evidence: MakeEvidence, values: list[float]
) -> None:
    grid = index([evidence(tp, 16, v) for tp, v in zip(TPS, values, strict=False)])
    steps = {(s.metric, s.from_tp, s.to_tp): s.ratio for s in transitions(grid)}
    for (metric, a, b), r in steps.items():
        if metric == "total_tok_s":
            assert r * steps["e2e_latency_s", a, b] == pytest.approx(1)


def test_comparison_keeps_steps_found_in_both_and_averages_their_distance() -> None:
    ours = [step("e2e_latency_s", -30), step("e2e_latency_s", -20, from_tp=2, to_tp=4)]
    theirs = [
        step("e2e_latency_s", -33.5, "b"),
        step("e2e_latency_s", -14, "b", 2, 4),
        step("e2e_latency_s", -11, "b", 4, 8),
    ]
    pairs = compare(ours, theirs)
    assert [p.difference_points for p in pairs] == pytest.approx([3.5, -6])
    assert mean_absolute_error_points(pairs) == pytest.approx(4.75)  # (3.5 + 6) / 2


def test_the_error_of_nothing_is_not_a_number() -> None:
    assert math.isnan(mean_absolute_error_points(()))


def test_a_step_between_values_without_intervals_is_not_clear(
    evidence: MakeEvidence, replaced: Callable[..., Evidence]
) -> None:
    cells = [replaced(evidence(tp, 8, 2.0 / tp), e2e_latency_s=2.0 / tp) for tp in (1, 2)]
    up, down = transitions(index(cells), ["e2e_latency_s"])
    assert up.change_pct == Interval(-50.0, -50.0, -50.0)
    assert not up.is_clear
    assert not down.is_clear
