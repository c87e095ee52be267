from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from shardwise.analysis.breakeven import (
    breakeven_tp,
    communication_share,
    latency_keeping_batch,
    latency_keeping_batches,
    shares,
)
from shardwise.analysis.grid import Grid, index
from shardwise.analysis.transitions import transitions
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence

MakeEvidence = Callable[..., Evidence]


@pytest.fixture
def grid(evidence: MakeEvidence) -> Grid:
    # TP=2 at batch 16 takes 4 s; TP=1 takes 3, 5 and 9 s at 4, 16 and 64
    return index(
        [
            evidence(1, 4, 3.0),
            evidence(1, 16, 5.0),
            evidence(1, 64, 9.0),
            evidence(2, 4, 2.0),
            evidence(2, 16, 4.0),
            evidence(2, 64, 20.0),
        ]
    )


def test_the_batch_that_keeps_latency_is_read_on_a_log_batch_line(grid: Grid) -> None:
    # 4 s is halfway from 3 to 5, so halfway in log from 4 to 16: sqrt(4 * 16) = 8
    kept = latency_keeping_batch(grid, from_tp=2, to_tp=1, concurrency=16)
    assert kept.batch == pytest.approx(8.0)
    assert kept.bound == "exact"
    assert kept.latency == 4.0


def test_no_batch_keeps_a_latency_that_the_smallest_already_exceeds(grid: Grid) -> None:
    kept = latency_keeping_batch(grid, from_tp=2, to_tp=1, concurrency=4)
    assert (kept.batch, kept.bound) == (None, "none")


def test_the_largest_batch_studied_is_a_lower_bound_where_it_is_still_fast_enough(
    grid: Grid,
) -> None:
    kept = latency_keeping_batch(grid, from_tp=2, to_tp=1, concurrency=64)
    assert (kept.batch, kept.bound) == (64.0, "at least")


def test_a_noisy_curve_counts_its_first_crossing(evidence: MakeEvidence) -> None:
    grid = index(
        [evidence(1, 4, 3.0), evidence(1, 16, 9.0), evidence(1, 64, 5.0), evidence(2, 16, 6.0)]
    )
    # halfway from 3 to 9 before the dip back to 5
    assert latency_keeping_batch(grid, 2, 1, 16).batch == pytest.approx(8.0)


def test_each_batch_of_each_step_down_is_answered(grid: Grid) -> None:
    kept = latency_keeping_batches(grid)
    assert [(k.from_tp, k.to_tp, k.concurrency) for k in kept] == [
        (2, 1, 4),
        (2, 1, 16),
        (2, 1, 64),
    ]


def test_a_cell_that_was_not_studied_is_refused_by_name(grid: Grid) -> None:
    with pytest.raises(InputError, match="TP=8 at concurrency 16; known: TP 1, 2 at 4, 16, 64"):
        latency_keeping_batch(grid, from_tp=8, to_tp=1, concurrency=16)


def test_breakeven_tp_is_the_last_before_a_step_that_buys_too_little(
    evidence: MakeEvidence,
) -> None:
    # latency saved: 40 %, 33.3 %, 5 % -> beyond TP=4 a step buys less than 10 %
    cells = [(1, 10.0), (2, 6.0), (4, 4.0), (8, 3.8)]
    steps = transitions(index([evidence(tp, 16, s) for tp, s in cells]))
    (at,) = breakeven_tp(steps, min_gain_pct=10)
    assert (at.tp_size, at.concurrency) == (4, 16)
    assert at.next_gain_pct == pytest.approx(5.0)


def test_breakeven_in_throughput_counts_throughput_gained(evidence: MakeEvidence) -> None:
    # throughput is 1/latency here: +66.7 %, +50 %, +5.3 %; less than 55 % is bought beyond TP=2
    cells = [(1, 10.0), (2, 6.0), (4, 4.0), (8, 3.8)]
    steps = transitions(index([evidence(tp, 16, s) for tp, s in cells]))
    (at,) = breakeven_tp(steps, min_gain_pct=55, metric="total_tok_s")
    assert at.tp_size == 2
    assert at.next_gain_pct == pytest.approx(50.0)


def test_where_every_step_pays_the_breakeven_is_not_below_the_largest_tp(
    evidence: MakeEvidence,
) -> None:
    steps = transitions(index([evidence(1, 16, 10.0), evidence(2, 16, 5.0)]))
    (at,) = breakeven_tp(steps, min_gain_pct=10)
    assert (at.tp_size, at.next_gain_pct) == (2, None)


def test_shares_add_to_one_and_name_communication(evidence: MakeEvidence) -> None:
    item = evidence(2, 16, 4.0)  # half weights, a quarter communication, a quarter compute
    assert shares(item) == pytest.approx({"weights": 0.5, "communication": 0.25, "compute": 0.25})
    assert communication_share(item) == pytest.approx(0.25)


def test_without_a_breakdown_the_share_of_communication_is_unknown(evidence: MakeEvidence) -> None:
    assert communication_share(replace(evidence(2, 16, 4.0), breakdown={})) is None


def test_a_breakdown_without_communication_spent_none_on_it(evidence: MakeEvidence) -> None:
    item = replace(evidence(1, 16, 4.0), breakdown={"weights": 1.0})
    assert communication_share(item) == 0.0
