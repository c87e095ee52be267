"""Which candidate is first where predictions do not tell them apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.perfmodel.intervals import LAYOUT_RHO, ratio_width
from shardwise.planner import ties
from shardwise.planner.question import Demand
from shardwise.planner.rank import Candidate, rank
from shardwise.workload.workload import Workload

DOUBT = ratio_width(0.2, 0.2)  #: of a difference of two candidates below: 14 %


def candidate(cost: float, replicas: int = 1, ttft_s: float = 1.0, width: float = 0.2) -> Candidate:
    def around(value: float) -> Interval:
        return Interval(value, value * math.exp(-width), value * math.exp(width))

    values = {"ttft_s": ttft_s, "tpot_s": 0.02, "e2e_latency_s": cost, "output_tok_s": 1.0 / cost}
    evidence = Evidence(
        Deployment("m", "h100", Layout(8 // replicas, replicas=replicas)),
        Workload(1000, 500, 8),
        {name: around(value) for name, value in values.items()},
        Source("predicted", "by hand"),
    )
    worth = around(1.0 / cost)
    return Candidate(evidence, 8, worth, around(cost), "usd", (), "weights", 0.1, False, 0.0)


def test_a_difference_is_known_better_than_either_value() -> None:
    # by hand: 0.2 sqrt(2 - 1.5)
    assert ratio_width(0.2, 0.2) == pytest.approx(0.2 * math.sqrt(0.5))
    assert ratio_width(0.3, 0.3, rho=1.0) == 0.0
    assert ratio_width(0.3, 0.4, rho=0.0) == pytest.approx(0.5)
    assert 0 < LAYOUT_RHO < 1


def test_a_clear_winner_is_first_whatever_its_replicas(ask: Any) -> None:
    best, many = candidate(1.0), candidate(1.3, replicas=8)
    assert ties.first(ask(), [many, best]) is best
    assert ties.reason(ask(), best, many) == "better"


def test_a_tie_goes_to_more_replicas_then_to_the_lower_ttft(ask: Any) -> None:
    one, two = candidate(1.0), candidate(1.05, replicas=2)
    assert ties.first(ask(), [one, two]) is two
    assert ties.reason(ask(), two, one) == "replicas"
    later = candidate(1.0, ttft_s=1.2)
    sooner = candidate(1.05, ttft_s=1.0)
    assert ties.first(ask(), [later, sooner]) is sooner
    assert ties.reason(ask(), sooner, later) == "ttft"


def test_a_tie_goes_to_cut_experts_before_the_lower_ttft(ask: Any) -> None:
    cut, whole = candidate(1.05, ttft_s=1.1), candidate(1.0, ttft_s=1.0)
    deployment = whole.deployment.with_layout(tp_size=8, ep_size=8)
    whole = replace(whole, evidence=replace(whole.evidence, deployment=deployment))
    assert ties.first(ask(), [whole, cut]) is cut
    assert ties.reason(ask(), cut, whole) == "experts"
    assert ties.reason(ask(), whole, cut) == "ttft"


def test_more_than_the_typical_error_of_a_difference_is_no_tie(ask: Any) -> None:
    within, beyond = (math.exp(share * ties.TYPICAL * DOUBT) for share in (0.98, 1.02))
    assert ties.first(ask(), [candidate(1.0), candidate(within, 4)]).deployment.replicas == 4
    assert ties.first(ask(), [candidate(1.0), candidate(beyond, 4)]).deployment.replicas == 1


def test_what_less_was_measured_of_must_be_better_by_the_whole_doubt(ask: Any) -> None:
    guess = replace(candidate(1.0), unseen=("layout",))
    close, far = candidate(math.exp(0.9 * DOUBT)), candidate(math.exp(1.1 * DOUBT))
    assert ties.first(ask(), [guess, close]) is close
    assert ties.reason(ask(), close, guess) == "measured"
    assert ties.first(ask(), [guess, far]) is guess


def test_a_queue_that_a_better_one_does_not_have_is_no_doubt(ask: Any) -> None:
    guess = replace(candidate(1.0, ttft_s=1.0), unseen=("layout",))
    queued = candidate(1.1, ttft_s=60.0)
    assert ties.first(ask(), [guess, queued]) is guess
    assert ties.reason(ask(), guess, queued) == "better"


def test_at_a_rate_that_all_carry_the_latency_decides(ask: Any) -> None:
    asked = ask(demand=Demand(1000, 500, request_rate=1.0))
    slow, quick = candidate(2.0, replicas=8), candidate(1.0)
    same = [replace(c, cost=Interval(1.0, 0.9, 1.1)) for c in (slow, quick)]
    assert ties.first(asked, same) is same[1]


def test_the_table_says_that_it_was_a_tie(ask: Any) -> None:
    ranked, _ = rank(ask(), [candidate(1.0), candidate(1.05, replicas=2), candidate(1.5)])
    assert [c.deployment.replicas for c in ranked] == [2, 1, 1]
    assert ranked[1].behind == "-4.8 % cost: a tie, fewer replicas"
    assert ranked[2].behind == "+50.0 % cost"
