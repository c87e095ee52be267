from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.analysis.audit import audit_grid, audit_steps
from shardwise.analysis.grid import index
from shardwise.analysis.published import load_published
from shardwise.analysis.transitions import Step, transitions
from shardwise.evidence.record import Evidence, Interval, Source

MakeEvidence = Callable[..., Evidence]
Replace = Callable[..., Evidence]

PRINTED = Source("published", "a table")


def printed(metric: str, from_tp: int, to_tp: int, change: float, digit: float = 0.1) -> Step:
    interval = Interval(change, change - digit, change + digit)
    return Step(metric, 16, from_tp, to_tp, interval, PRINTED)


def test_the_published_batch_128_step_from_tp1_to_tp2_is_the_only_flaw_found() -> None:
    found = audit_steps(load_published().steps)
    # latency -32 %: 1 / 0.68 = 1.4706 allowed; 1.796 * 0.68 = 1.2213 of it. Down again, latency
    # +47 %: 1 / 1.47 = 0.6803 allowed; 0.56 * 1.47 = 0.8232
    assert [(f.check, f.concurrency, f.from_tp, f.to_tp) for f in found] == [
        ("littles_law", 128, 1, 2),
        ("littles_law", 128, 2, 1),
    ]
    assert [f.mismatch_pct for f in found] == pytest.approx([22.13, -17.68], abs=0.01)
    assert found[0].message == (
        "E2E latency -32.0 % allows total throughput +47.1 %, the table says +79.6 %"
    )
    assert found[0].where == "batch 128, TP=1 to TP=2"
    assert found[0].severity == "broken"


def test_the_flaw_is_found_without_any_tolerance_and_nothing_more() -> None:
    assert audit_steps(load_published().steps, 0) == audit_steps(load_published().steps)


def test_steps_that_are_not_each_others_inverse_are_found() -> None:
    # 0.5 up is +100 % down; the table says +80 %: 0.5 * 1.8 = 0.9
    found = audit_steps([printed("ttft_s", 1, 2, -50), printed("ttft_s", 2, 1, 80)])
    assert [(f.check, round(f.mismatch_pct, 6)) for f in found] == [("inverse_steps", -10.0)]


def test_the_last_printed_digit_is_allowed_for() -> None:
    # 0.665 * 1.51 = 1.00415, within the last digit of 51 (1.50 to 1.52)
    up, down = printed("ttft_s", 1, 2, -33.5), printed("ttft_s", 2, 1, 51, digit=1.0)
    assert audit_steps([up, down]) == ()
    assert audit_steps([up, printed("ttft_s", 2, 1, 51, digit=0.1)])


def test_more_throughput_than_gpus_is_suspect() -> None:
    found = audit_steps([printed("output_tok_s", 1, 2, 130)])
    # 2.3 less the last digit (2.299) on 2 times the GPUs: 14.95 % above linear
    assert [(f.check, f.severity) for f in found] == [("above_linear", "suspect")]
    assert found[0].mismatch_pct == pytest.approx(14.95)
    assert audit_steps([printed("output_tok_s", 1, 4, 130)]) == ()


def test_latency_below_its_share_of_the_gpus_is_suspect() -> None:
    # -60 %: 1 / 0.4 = 2.5 times as fast on twice the GPUs
    assert [f.check for f in audit_steps([printed("e2e_latency_s", 1, 2, -60)])] == ["above_linear"]
    assert audit_steps([printed("e2e_latency_s", 1, 2, -50)]) == ()


def test_one_step_is_suspect_once_whatever_the_metrics(evidence: MakeEvidence) -> None:
    found = audit_grid(index([evidence(1, 16, 10.0), evidence(2, 16, 4.0)]))
    assert [f.check for f in found] == ["above_linear"]


def test_throughput_that_does_not_follow_from_latency_is_found(
    evidence: MakeEvidence, replaced: Replace
) -> None:
    # 16 in flight of 10 s and 101 tokens: 161.6 tok/s; the result says 200
    found = audit_grid(index([replaced(evidence(1, 16, 10.0), output_tok_s=200.0)]))
    assert [(f.check, f.where) for f in found] == [("littles_law", "batch 16, TP=1")]
    assert found[0].mismatch_pct == pytest.approx(23.76, abs=0.01)  # 200 / 161.6


def test_total_throughput_counts_input_tokens(evidence: MakeEvidence, replaced: Replace) -> None:
    # 16 * 1101 / 10 = 1761.6 tok/s
    consistent = replaced(evidence(1, 16, 10.0), total_tok_s=1761.6)
    assert audit_grid(index([consistent])) == ()
    assert audit_grid(index([replaced(consistent, total_tok_s=1616.0)]))


def test_latency_that_is_not_ttft_plus_decode_is_found(
    evidence: MakeEvidence, replaced: Replace
) -> None:
    # ttft 2 + 0.08 * 100 = 10; with TPOT 0.09 it would be 11: 10 / 11 - 1 = -9.09 %
    found = audit_grid(index([replaced(evidence(1, 16, 10.0), tpot_s=0.09)]))
    assert [f.check for f in found] == ["latency_identity"]
    assert found[0].mismatch_pct == pytest.approx(-9.09, abs=0.01)


def test_the_tolerance_is_relative_and_can_be_widened(
    evidence: MakeEvidence, replaced: Replace
) -> None:
    grid = index([replaced(evidence(1, 16, 10.0), output_tok_s=161.6 * 1.04)])
    assert audit_grid(grid)
    assert audit_grid(grid, tolerance=0.05) == ()


@pytest.mark.parametrize("change", [{"mode": "max_throughput"}, {"request_rate": 2.0}])
def test_littles_law_needs_a_known_number_in_flight(
    evidence: MakeEvidence, replaced: Replace, change: dict[str, Any]
) -> None:
    item = replaced(evidence(1, 16, 10.0), output_tok_s=900.0)
    assert audit_grid(index([replace(item, workload=replace(item.workload, **change))])) == ()


cells = st.lists(st.floats(0.5, 1.0), min_size=3, max_size=3)


@given(st.floats(0.1, 100), cells, st.integers(1, 512))
def test_self_consistent_data_is_never_flagged(
    evidence: MakeEvidence, tp1: float, factors: list[float], concurrency: int
) -> None:
    latency, items = tp1, [evidence(1, concurrency, tp1)]
    for tp, factor in zip((2, 4, 8), factors, strict=True):
        latency *= factor  # never more than twice as fast on twice the GPUs
        items.append(evidence(tp, concurrency, latency))
    grid = index(items)
    assert audit_grid(grid) == ()
    assert audit_steps(transitions(grid)) == ()


@given(st.floats(-49.9, 100), st.sampled_from([0, 1]))
def test_a_consistent_table_is_not_flagged_for_its_rounding(latency: float, digits: int) -> None:
    up, digit = 1 + latency / 100, 10.0**-digits
    exact = {
        ("e2e_latency_s", 1, 2): up,
        ("e2e_latency_s", 2, 1): 1 / up,
        ("total_tok_s", 1, 2): 1 / up,
        ("total_tok_s", 2, 1): up,
    }
    steps = [printed(*key, round((r - 1) * 100, digits), digit) for key, r in exact.items()]
    assert audit_steps(steps) == ()
