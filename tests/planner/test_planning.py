"""What a plan promises: everything ranked runs, everything else says why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.errors import DoesNotFitError, InputError, NothingMeetsError, ShardwiseError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.node import Node
from shardwise.layout.rules import violations
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.planner.packing import pack
from shardwise.planner.plan import explore, plan
from shardwise.planner.question import Demand, Question
from shardwise.workload.workload import Slo

CATALOGUE = default_catalogue()


def question(model: str, gpu: str, gpus: int, demand: Demand, **others: Any) -> Question:
    node = Node(CATALOGUE.gpu(gpu), gpus)
    return Question(load(model), node, demand, bundled_profile(), dict(CATALOGUE.by_id), **others)


MODELS = st.sampled_from(["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "gpt-oss-20b"])
GPUS = st.sampled_from(["mi300x", "h100", "b200", "l40s"])


@settings(max_examples=30, deadline=None)
@given(
    MODELS,
    GPUS,
    st.integers(1, 8),
    st.sampled_from([{"concurrency": 5}, {"request_rate": 0.5}, {}]),
)
def test_every_ranked_candidate_fits_and_breaks_no_rule(
    model: str, gpu: str, gpus: int, load_: dict[str, Any]
) -> None:
    asked = question(model, gpu, gpus, Demand(1024, 256, **load_))
    try:
        made = explore(asked)
    except DoesNotFitError:
        return
    for candidate in made.ranked:
        d = candidate.deployment
        assert d.gpus <= gpus
        assert not violations(in_dtype(asked.arch, d.dtypes.weight), d.layout)
        assert memory_plan(asked.arch, asked.node.gpu, d, d.limits.max_model_len).fits
    assert all(r.reason for r in made.rejected)


def test_an_moe_model_is_also_planned_with_whole_experts_on_each_rank() -> None:
    made = explore(question("qwen3-235b-a22b", "h200", 8, Demand(1024, 256, concurrency=64)))
    fp8 = [c.deployment for c in made.ranked if c.deployment.dtypes.weight == "fp8"]
    assert any(d.tp_size == 8 and d.layout.expert_parallel for d in fp8)
    assert not any(d.layout.expert_parallel for d in fp8 if d.pp_size > 1)


@settings(max_examples=25, deadline=None)
@given(
    MODELS,
    GPUS,
    st.integers(1, 7),
    st.integers(1, 300),
    st.sampled_from(["latency", "throughput"]),
)
def test_adding_a_gpu_never_worsens_the_best_objective(
    model: str, gpu: str, gpus: int, concurrency: int, objective: Any
) -> None:
    demand = Demand(1024, 256, concurrency)

    def best(gpus: int) -> float:  # of all: the first may have won a tie with more replicas
        made = plan(question(model, gpu, gpus, demand, objective=objective))
        return min(c.objective(objective) for c in made.ranked)

    try:
        few = best(gpus)
    except ShardwiseError:
        return
    assert best(gpus + 1) <= few + 1e-9 * abs(few)


def test_capacity_left_with_a_gpu_lost_is_seven_eighths_for_eight_copies(ask: Any) -> None:
    left = {c.deployment.replicas: c.capacity_left for c in plan(ask()).ranked}
    assert left[8] == 7 / 8
    assert left[1] == 0


def test_cost_is_for_the_whole_node(ask: Any) -> None:
    best = plan(ask(usd_per_gpu_hour=2.0)).best
    # 8 GPUs x 2 USD/h over tokens per hour
    expected = 16.0 / (best.node_output_tok_s.value * 3600) * 1e6
    assert best.cost.value == pytest.approx(expected)
    assert best.cost_metric == "usd_per_million_output_tok"


def test_uneven_spread_counts_each_replica_at_its_own_concurrency(ask: Any) -> None:
    made = plan(ask(demand=Demand(1024, 256, 9), weight_dtype="fp8"))
    eight = next(c for c in made.ranked if c.deployment.replicas == 8)
    one = eight.evidence.metrics["output_tok_s"].value
    assert eight.evidence.workload.concurrency == 2
    # one replica holds two requests and seven hold one, so far less than eight times two
    assert one < eight.node_output_tok_s.value < 8 * one


def test_request_rate_delivers_what_is_asked_and_rejects_overload_with_the_rate(ask: Any) -> None:
    made = plan(ask(demand=Demand(1024, 256, request_rate=4.0)))
    assert made.best.node_output_tok_s.value == pytest.approx(4.0 * 256)
    with pytest.raises(NothingMeetsError, match=r"lower --request-rate to"):
        plan(ask(demand=Demand(1024, 256, request_rate=10_000.0)))


def test_the_rate_said_to_hold_does_hold(ask: Any) -> None:
    made = explore(ask(demand=Demand(1024, 256, request_rate=10_000.0)))
    most = max(r.request_rate for r in made.rejected)
    assert plan(ask(demand=Demand(1024, 256, request_rate=0.99 * most))).ranked


def test_nothing_meets_names_the_nearest_and_exits_3(ask: Any) -> None:
    with pytest.raises(NothingMeetsError, match=r"nearest: .* misses TTFT by .* %") as caught:
        plan(ask(slo=Slo(ttft_s=0.001)))
    assert caught.value.exit_code == 3


def test_slo_says_whether_the_whole_interval_meets_it(ask: Any) -> None:
    first = plan(ask()).best.evidence.metrics["tpot_s"]
    between = (first.value + first.hi) / 2
    made = plan(ask(slo=Slo(tpot_s=between)))
    same = next(c for c in made.ranked if c.evidence.metrics["tpot_s"] == first)
    assert not same.checks[0].certain
    assert all(c.evidence.metrics["tpot_s"].value <= between for c in made.ranked)
    assert all("misses TPOT" in c.behind for c in made.missing)


def test_what_does_not_fit_says_what_is_short() -> None:
    asked = question("llama-3.1-70b", "h100", 8, Demand(1024, 256, 64))
    short = [r for r in plan(asked).rejected if r.cause == "memory"]
    assert any("GB per GPU short" in r.reason and r.shortfall_bytes > 0 for r in short)
    with pytest.raises(DoesNotFitError, match="GB per GPU short"):
        plan(question("llama-3.1-405b", "h100", 2, Demand(1024, 256)))


def test_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="131072"):
        question("llama-3.1-70b", "h100", 8, Demand(200_000, 256))


def test_packed_models_share_the_node_on_contiguous_devices(ask: Any) -> None:
    asked = [ask("llama-3.1-70b", "h100"), ask("qwen3-8b", "h100"), ask("llama-3.2-1b", "h100")]
    packed = pack(asked)
    shares = [p.plan.question.node.gpus for p in packed]
    assert sum(shares) == 8
    assert [p.first_device for p in packed] == [0, shares[0], shares[0] + shares[1]]


def test_models_that_cannot_all_fit_say_what_each_needs(ask: Any) -> None:
    big = ask("llama-3.1-405b", "h100", weight_dtype="fp8")
    with pytest.raises(DoesNotFitError, match=r"need at least .* GPUs \(llama-3.1-405b 8"):
        pack([big, ask("qwen3-8b", "h100")])


def test_a_cached_beginning_is_neither_computed_nor_kept_twice() -> None:
    plain = plan(question("llama-3.1-70b", "h200", 2, Demand(8000, 200, 256), weight_dtype="fp8"))
    demand = Demand(8000, 200, 256, cached_tokens=7000)
    cached = plan(question("llama-3.1-70b", "h200", 2, demand, weight_dtype="fp8"))
    slow, fast = (p.best.evidence.metrics["ttft_s"].value for p in (plain, cached))
    assert fast < slow / 4.0
    assert plain.best.kv_limited
    assert not cached.best.kv_limited
    # 1,000 of 8,000 prompt tokens are computed, and the matrix units do not count the others
    assert 0.0 < cached.best.matrix_share < 1.0


def test_an_engine_that_takes_no_tp_of_a_model_says_why() -> None:
    asked = question("deepseek-r1", "a100-80gb", 2, Demand(100, 100, 1), engine="builtin")
    with pytest.raises(DoesNotFitError, match="no layout of deepseek-r1 on 2 x a100-80gb"):
        plan(asked)
