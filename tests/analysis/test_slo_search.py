"""The cheapest deployment that holds a rate: fewest replicas, rate held, reasons, prices."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.analysis.slo_search import hold
from shardwise.architecture.models import load
from shardwise.errors import InputError, NothingMeetsError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.network import network
from shardwise.hardware.node import Node
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.planner.question import Demand, Question
from shardwise.simulator.capacity import Target, holds
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import make_group
from shardwise.simulator.simulate import simulate
from shardwise.simulator.traffic import Lengths, Traffic, draw

pytestmark = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
TARGETS = (Target("ttft_s", 99, 1.0), Target("tpot_s", 99, 0.05))


def question(gpu: str = "h200", rate: float | None = 10.0, price: float | None = 2.0) -> Question:
    catalogue = default_catalogue()
    return Question(
        arch=load("llama-3.1-70b"),
        node=Node(catalogue.gpu(gpu), 8),
        demand=Demand(1000, 300, request_rate=rate),
        profile=bundled_profile(),
        siblings=catalogue.by_id,
        weight_dtype="fp8",
        usd_per_gpu_hour=price,
    )


def test_finalists_have_the_fewest_replicas_that_hold_and_hold_the_rate_they_say() -> None:
    found = hold([question()], TARGETS)
    costs = [f.usd_per_hour for f in found.finalists]
    assert costs == sorted(costs, key=lambda cost: cost or 0)
    best = found.best
    assert best.usd_per_hour == 2.0 * best.deployment.gpus
    assert best.evidence.source.kind == "simulated"
    assert best.evidence.metrics["ttft_p99_s"].value <= 1.0
    assert best.rate_held.lo <= best.rate_held.value <= best.rate_held.hi

    def held(replicas: int, rate: float, seed: int = 0) -> bool:
        group = make_group(best.deployment.with_layout(replicas=replicas))
        trace = draw(Traffic(rate, Lengths(1000), Lengths(300), 240.0), seed)
        return holds(simulate([group], trace), TARGETS, warmup_s=20.0)

    # another run, twice as long: what was found carries over to it
    assert held(best.deployment.replicas, 0.93 * best.rate_held.value, seed=1)
    assert not held(best.deployment.replicas, 1.15 * best.rate_held.value, seed=1)
    assert not held(best.deployment.replicas - 1, 10.0, seed=1)


def test_a_model_larger_than_a_node_holds_a_rate_over_two() -> None:
    catalogue = default_catalogue()
    asked = replace(
        question("h100"),
        arch=load("llama-3.1-405b"),
        weight_dtype="bf16",  # 810 GB; eight H100s have 640
        node=Node(catalogue.gpu("h100"), 16, 2, network("ib-ndr")),
        demand=Demand(1000, 200, request_rate=0.5),
    )
    best = hold([asked], (Target("ttft_s", 99, 10.0),)).best.deployment
    assert best.layout.replica_gpus == 16
    assert best.layout.tp_size <= 8


def test_the_cheaper_kind_of_gpu_wins_at_its_price() -> None:
    dear = hold([question("h200", price=4.0), question("h100", price=1.0)], TARGETS)
    assert dear.best.deployment.gpu == "h100"
    assert {f.deployment.gpu for f in dear.finalists} == {"h100", "h200"}
    cheap = hold([question("h200", price=1.0), question("h100", price=4.0)], TARGETS)
    assert cheap.best.deployment.gpu == "h200"


def test_where_nothing_holds_the_nearest_is_named() -> None:
    with pytest.raises(NothingMeetsError, match=r"holds 10 requests/s within the SLO; nearest: "):
        hold([question()], (Target("ttft_s", 99, 0.01),))
    with pytest.raises(NothingMeetsError, match=r"lower --request-rate to \d"):
        hold([question(rate=2000.0)], TARGETS)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="percentile bounds without a rate; add --request-rate"):
        hold([question(rate=None)], TARGETS)
    with pytest.raises(InputError, match="no price of h200 to compare"):
        hold([question(price=None), question("h100")], TARGETS)
