"""Kinds of GPU compared without a bound on a percentile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shardwise.errors import InputError, NothingMeetsError
from shardwise.planner.kinds import Kinds, plan_kinds
from shardwise.planner.plan import plan
from shardwise.planner.question import Demand, Question
from shardwise.workload.workload import Slo

DEMAND = Demand(1024, 256, 32)


def compared(questions: list[Question]) -> Kinds:
    by_gpu = {q.node.gpu.id: q for q in questions}
    return plan_kinds([q.node.gpu.id for q in questions], lambda gpu: plan(by_gpu[gpu]))


def asked(ask: Any, gpus: Mapping[str, float | None], **others: Any) -> list[Question]:
    others = {"demand": DEMAND, "weight_dtype": "fp8", **others}
    return [
        ask("llama-3.1-70b", gpu, 2, usd_per_gpu_hour=price, **others)
        for gpu, price in gpus.items()
    ]


def test_the_cheapest_kind_is_first_and_its_plan_is_that_of_the_kind_alone(ask: Any) -> None:
    questions = asked(ask, {"h200": 2.0, "b200": 4.0, "mi300x": 2.0})
    kinds = compared(questions)
    costs = [p.best.cost.hi for p in kinds.plans]
    assert costs == sorted(costs)
    alone = {q.node.gpu.id: plan(q).best.deployment for q in questions}
    assert all(p.best.deployment == alone[p.question.node.gpu.id] for p in kinds.plans)


def test_a_dearer_kind_falls_behind(ask: Any) -> None:
    first = compared(asked(ask, {"h200": 2.0, "b200": 2.0})).best.question.node.gpu.id
    dear = {"h200": 2.0, "b200": 2.0, first: 50.0}
    assert compared(asked(ask, dear)).best.question.node.gpu.id != first


def test_a_kind_without_a_price_is_not_compared_by_cost_but_by_latency(ask: Any) -> None:
    prices = {"h200": 2.0, "b200": None}
    kinds = compared(asked(ask, prices))
    assert [p.question.node.gpu.id for p in kinds.plans] == ["h200"]
    assert "its price is unknown" in kinds.without[0].reason
    by_latency = compared(asked(ask, prices, objective="latency"))
    assert [p.question.node.gpu.id for p in by_latency.plans] == ["b200", "h200"]


def test_a_kind_on_which_nothing_fits_says_why(ask: Any) -> None:
    kinds = compared(asked(ask, {"h200": 2.0, "rtx-4090": 0.5}))
    assert [x.gpu for x in kinds.without] == ["rtx-4090"]
    assert "GB per GPU short" in kinds.without[0].reason


def test_where_no_kind_does_all_reasons_are_one_line(ask: Any) -> None:
    with pytest.raises(NothingMeetsError, match="no plan on h200 or b200") as caught:
        compared(asked(ask, {"h200": 2.0, "b200": 2.0}, slo=Slo(ttft_s=1e-4)))
    assert "\n" not in str(caught.value)


def test_a_kind_that_comes_twice_is_refused(ask: Any) -> None:
    one = asked(ask, {"h200": 2.0})
    with pytest.raises(InputError, match="h200 is given 2 times"):
        compared(one + one)
