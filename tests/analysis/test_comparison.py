"""Two runs are compared cell by cell, and a verdict is no stronger than the intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.analysis.comparison import POWER_FACTOR, blind_at, compare_runs, slower_by
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval

MakeEvidence = Callable[..., Evidence]


def with_metrics(item: Evidence, **values: Interval) -> Evidence:
    return replace(item, metrics=values)


def spread(value: float, factor: float) -> Interval:
    return Interval(value, value / factor, value * factor, 3)


def test_a_latency_that_rose_and_a_throughput_that_fell_are_both_slower(
    evidence: MakeEvidence,
) -> None:
    cell = evidence(1, 8, 2.0)
    a = with_metrics(cell, tpot_s=spread(0.010, 1.01), output_tok_s=spread(1000.0, 1.01))
    b = with_metrics(cell, tpot_s=spread(0.020, 1.01), output_tok_s=spread(500.0, 1.01))
    tpot, rate = compare_runs([a], [b]).cells
    assert (tpot.verdict, rate.verdict) == ("slower", "slower")
    assert tpot.slower_pct.value == pytest.approx(100.0)
    assert rate.slower_pct.value == pytest.approx(50.0)
    back = compare_runs([b], [a])
    assert [c.verdict for c in back.cells] == ["faster", "faster"]


def test_the_interval_of_a_change_adds_the_widths_of_both_runs_as_squares(
    evidence: MakeEvidence,
) -> None:
    cell = evidence(1, 8, 2.0)
    a = with_metrics(cell, tpot_s=spread(0.010, math.exp(0.03)))
    b = with_metrics(cell, tpot_s=spread(0.010, math.exp(0.04)))
    (change,) = compare_runs([a], [b]).cells
    assert change.change_pct.hi == pytest.approx((math.exp(0.05) - 1) * 100)  # 3, 4, 5
    assert change.verdict == "no difference seen"
    assert change.smallest_seen_pct == pytest.approx((math.exp(0.05 * POWER_FACTOR) - 1) * 100)


def test_a_value_without_an_interval_supports_no_verdict(evidence: MakeEvidence) -> None:
    cell = evidence(1, 8, 2.0)
    a = with_metrics(cell, tpot_s=Interval(0.01, 0.01, 0.01, 1))
    b = with_metrics(cell, tpot_s=Interval(0.05, 0.05, 0.05, 1))
    found = compare_runs([a], [b])
    assert [c.verdict for c in (*found.cells, *found.overall)] == ["no interval"] * 2
    assert slower_by(found, 5.0) == ()
    assert [c.metric for c in blind_at(found, 5.0)] == ["tpot_s"]


def test_overall_is_the_geometric_mean_and_is_known_better_than_a_cell(
    evidence: MakeEvidence,
) -> None:
    wide = math.exp(0.04)
    a = [with_metrics(evidence(1, c, 2.0), tpot_s=spread(0.01, wide)) for c in (1, 2, 4, 8)]
    b = [
        with_metrics(item, tpot_s=spread(0.01 * factor, wide))
        for item, factor in zip(a, (1.0, 1.1, 1.1, 1.21), strict=True)
    ]
    (overall,) = compare_runs(a, b).overall
    assert overall.change_pct.value == pytest.approx(10.0)
    assert overall.change_pct.n == 4
    half = math.hypot(0.04, 0.04) / math.sqrt(4)
    assert overall.change_pct.hi == pytest.approx((1.1 * math.exp(half) - 1) * 100)


def test_a_single_cell_fails_only_with_its_whole_interval(evidence: MakeEvidence) -> None:
    a = [with_metrics(evidence(1, c, 2.0), tpot_s=spread(0.01, 1.02)) for c in range(1, 11)]
    b = [
        with_metrics(item, tpot_s=spread(0.01 * (1.06 if i == 0 else 0.999), 1.02))
        for i, item in enumerate(a)
    ]
    assert slower_by(compare_runs(a, b), 5.0) == ()  # 6 %, of which the interval begins at 3
    b[0] = with_metrics(a[0], tpot_s=spread(0.012, 1.02))
    (cell,) = slower_by(compare_runs(a, b), 5.0)
    assert cell.load is not None
    assert cell.load.concurrency == 1


def test_two_engines_are_compared_and_it_is_said(evidence: MakeEvidence) -> None:
    a = evidence(1, 8, 2.0)
    b = replace(a, deployment=replace(a.deployment, engine="sglang"))
    assert compare_runs([a], [b]).differing == {"engine": ("vllm", "sglang")}


def test_a_model_in_one_run_only_is_not_compared_with_another(evidence: MakeEvidence) -> None:
    a = evidence(1, 8, 2.0)
    other = replace(a, deployment=replace(a.deployment, model="other"))
    found = compare_runs([a, other], [a, evidence(2, 8, 2.0)])
    assert len(found.cells) == 4
    assert len(found.only_a) == 1
    assert [load.layout for load in found.only_b] == ["TP2"]


def test_runs_without_a_common_cell_are_refused(evidence: MakeEvidence) -> None:
    with pytest.raises(InputError, match="have no common cells"):
        compare_runs([evidence(1, 8, 2.0)], [evidence(2, 8, 2.0)])


def test_two_results_for_one_load_are_refused(evidence: MakeEvidence) -> None:
    cell = evidence(1, 8, 2.0)
    with pytest.raises(InputError, match="run A has two results for TP1"):
        compare_runs([cell, cell], [cell])


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(1.0001, 2), st.floats(1.0001, 2))
def test_swapping_the_runs_inverts_the_ratio_and_the_verdict(
    x: float, y: float, width_x: float, width_y: float
) -> None:
    from tests.analysis.conftest import make

    cell = make(1, 8, 2.0)
    a = with_metrics(cell, tpot_s=spread(x, width_x))
    b = with_metrics(cell, tpot_s=spread(y, width_y))
    (there,), (back,) = compare_runs([a], [b]).cells, compare_runs([b], [a]).cells
    assert (1 + there.change_pct.value / 100) * (1 + back.change_pct.value / 100) == pytest.approx(
        1
    )
    opposite = {"slower": "faster", "faster": "slower"}
    assert back.verdict == opposite.get(there.verdict, there.verdict)
