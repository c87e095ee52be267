"""What to deploy: the planner's answer for predictions, its rule among cells for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from shardwise.analysis.advice import Advice, NoAdvice, advise, planned_advice
from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.grid import index
from shardwise.errors import DoesNotFitError
from shardwise.evidence.record import Evidence, Interval
from shardwise.hardware.node import Node as HardwareNode
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.planner.plan import explore, plan
from shardwise.planner.question import Demand, Question
from shardwise.workload.workload import Slo

MakeEvidence = Callable[..., Evidence]
EVERY = (1, 2, 4, 8)


def question(gpu: str = "mi300x", rate: float | None = None, **slo: float) -> Question:
    subject, catalogue = subject_of(Asked("llama-3.1-70b", gpu, weight_dtype="fp8"))
    return Question(
        arch=subject.arch,
        node=HardwareNode(subject.gpu, 8),
        demand=Demand(2048, 512, request_rate=rate),
        profile=subject.calibrated.profile,
        siblings=catalogue.by_id,
        slo=Slo(**slo),
        weight_dtype="fp8",
        usd_per_gpu_hour=2.0,
    )


@pytest.mark.parametrize(
    ("gpu", "slo"),
    [("mi300x", {"tpot_s": 0.03}), ("h200", {"tpot_s": 0.015, "ttft_s": 1.0}), ("l40s", {})],
)
def test_the_advice_is_the_plans_first(gpu: str, slo: dict[str, float]) -> None:
    asked = question(gpu, **slo)
    best = plan(asked).best
    advice = planned_advice("online", explore(asked), EVERY)
    assert isinstance(advice, Advice)
    assert (advice.evidence.deployment, advice.choice.cost) == (best.deployment, best.cost)
    assert advice.choice.copies == best.deployment.replicas
    assert advice.certain == all(check.certain for check in best.checks)


def test_a_better_tp_that_was_not_asked_is_named() -> None:
    asked = question(tpot_s=0.03)
    best = plan(asked).best.deployment.tp_size
    others = [tp for tp in EVERY if tp != best]
    advice = planned_advice("online", explore(asked), others)
    assert isinstance(advice, Advice)
    assert advice.choice.tp_size in others
    assert f"TP{best} " in advice.note


@pytest.mark.parametrize(
    ("given", "words"),
    [({"tpot_s": 1e-4}, "misses TPOT by"), ({"rate": 1000.0}, "1000 are needed")],
)
def test_what_nothing_meets_names_the_nearest(given: dict[str, Any], words: str) -> None:
    asked = question(**given)
    assert not explore(asked).ranked
    advice = planned_advice("online", explore(asked), EVERY)
    assert isinstance(advice, NoAdvice)
    assert words in advice.nearest


def test_a_tp_that_no_plan_has_is_no_advice() -> None:
    with pytest.raises(DoesNotFitError, match="TP of 3"):
        planned_advice("online", explore(question("l40s")), [3])


def test_among_cells_the_cautious_end_of_the_cost_decides(evidence: MakeEvidence) -> None:
    # 8 x TP=1 is the cheaper by value (8 / 10 s against 4 / 5.2 s a batch), but its throughput's
    # interval reaches a fifth as low
    wide = evidence(1, 16, 10.0)
    low = wide.metrics["output_tok_s"]
    wide = replace(
        wide,
        metrics={**wide.metrics, "output_tok_s": Interval(low.value, low.value / 5, low.hi)},
    )
    grid = index([wide, evidence(2, 16, 5.2)])
    costs = [c for c in node_costs(grid, Node(8)) if c.scenario == "full_node"]
    assert min(costs, key=lambda c: c.cost.value).tp_size == 1
    advice = advise("offline", Slo(), costs, grid)
    assert isinstance(advice, Advice)
    assert (advice.choice.tp_size, advice.basis) == (2, "cells")


def test_among_cells_a_miss_names_the_nearest(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 16, 10.0), evidence(2, 16, 6.0)])
    advice = advise("online", Slo(e2e_latency_s=5.0), node_costs(grid, Node(8)), grid)
    # 6 / 5 - 1 = 20 %
    assert advice == NoAdvice(
        "online",
        Slo(e2e_latency_s=5.0),
        "TP=2 at batch 16 misses E2E latency by 20.0 %",
    )
