from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from shardwise.analysis.claim import chain, match_claim
from shardwise.analysis.grid import index
from shardwise.analysis.published import load_published
from shardwise.analysis.transitions import transitions
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence

MakeEvidence = Callable[..., Evidence]


def test_the_published_cost_figures_are_those_of_batch_16() -> None:
    study = load_published()
    near, far = match_claim(study.steps, study.claim)
    assert (near.concurrency, far.concurrency) == (16, 128)
    # batch 16: latency 1.13 * 1.53 * 1.51 = 2.6106; node 8 * 0.89 * 0.66 * 0.66 = 3.1015
    assert near.latency_ratio.value == pytest.approx(2.6106, abs=1e-4)
    assert near.throughput_ratio.value == pytest.approx(3.1015, abs=1e-4)
    assert near.cost_share.value == pytest.approx(1 / 3.1015, abs=1e-4)
    # against 2.5x, 3.21x and 31 %
    assert near.mismatches_pct == pytest.approx(
        {"latency": 4.43, "throughput": -3.38, "cost": 4.01}, abs=0.01
    )
    # batch 128: latency 1.54 * 1.71 * 1.47 = 3.8711; node 8 * 0.64 * 0.59 * 0.56 = 1.6916
    assert far.latency_ratio.value == pytest.approx(3.8711, abs=1e-4)
    assert far.throughput_ratio.value == pytest.approx(1.6916, abs=1e-4)
    assert far.worst_mismatch_pct == pytest.approx(90.69, abs=0.01)  # cost 59.1 % against 31 %


def test_the_claim_itself_obeys_littles_law() -> None:
    claim = load_published().claim
    assert claim.copies_ratio == 8
    # 8 copies at 2.5x the latency: 8 / 2.5 = 3.2, claimed 3.21
    assert claim.allowed_throughput_ratio == pytest.approx(claim.throughput_ratio, rel=0.005)


def test_copies_are_counted_before_and_after_the_move() -> None:
    # 8 GPUs: two copies of TP=4 become four of TP=2; at 1.6x the latency that is 1.25x throughput
    claim = replace(load_published().claim, from_tp=4, to_tp=2, latency_ratio=1.6)
    assert claim.copies_ratio == 2
    assert claim.allowed_throughput_ratio == pytest.approx(1.25)


def test_a_chain_has_the_ratio_of_its_ends(evidence: MakeEvidence) -> None:
    cells = [(1, 10.0), (2, 6.0), (4, 4.0), (8, 3.8)]
    steps = transitions(index([evidence(tp, 16, s) for tp, s in cells]))
    down, up = chain(steps, "e2e_latency_s", 8, 1), chain(steps, "e2e_latency_s", 2, 8)
    assert down is not None
    assert up is not None
    assert down.value == pytest.approx(10.0 / 3.8)
    assert up.value == pytest.approx(3.8 / 6.0)


def test_a_broken_chain_has_no_ratio(evidence: MakeEvidence) -> None:
    steps = transitions(index([evidence(1, 16, 10.0), evidence(2, 16, 6.0)]))
    assert chain(steps, "e2e_latency_s", 8, 1) is None


def test_a_batch_whose_steps_do_not_span_the_claim_is_left_out(evidence: MakeEvidence) -> None:
    steps = transitions(index([evidence(1, 16, 10.0), evidence(2, 16, 6.0)]))
    assert match_claim(steps, load_published().claim) == ()


def test_a_chain_from_a_tp_to_itself_is_refused() -> None:
    with pytest.raises(InputError, match="TP=8 to itself"):
        chain(load_published().steps, "e2e_latency_s", 8, 8)
