"""What a plan says of its first: what binds, why the second lost, what would settle it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from tests.planner.conftest import make_question

from shardwise.planner.explanation import explain
from shardwise.planner.plan import Plan, plan
from shardwise.planner.question import Demand
from shardwise.reports.plan_words import recommendation


@cache
def planned(
    model: str, gpu: str, gpus: int, in_flight: int, dtype: str | None = None, osl: int = 1000
) -> Plan:
    demand = Demand(4000, osl, in_flight)
    return plan(make_question(model, gpu, gpus, demand, weight_dtype=dtype))


def first_sentence(made: Plan) -> str:
    return recommendation(made).partition(": predicted")[0]


def test_binding_is_the_largest_share_of_the_time() -> None:
    made = planned("llama-3.1-70b", "h200", 8, 64, "fp8")
    parts = made.best.evidence.breakdown
    share = explain(made).binding_share
    assert share == pytest.approx(max(parts.values()) / sum(parts.values()))
    assert f"{100 * share:.0f} %)" in recommendation(made)


def test_what_the_second_loses_by_adds_up_to_the_difference() -> None:
    made = planned("deepseek-r1", "h200", 8, 8)
    other = explain(made).runner_up
    assert other is not None
    best, second = made.ranked[:2]
    assert other.apart_pct == pytest.approx(
        100 * (second.cost.value / best.cost.value - 1), rel=1e-6
    )
    assert 0 < other.part_pct < other.apart_pct + 100
    assert f"Runner-up: {second.name}, {other.apart_pct:+.1f} % cost" in recommendation(made)
    assert "To decide, measure the node's output tok/s of both" in recommendation(made)


def test_a_layout_far_from_rows_says_so_in_its_first_sentence() -> None:
    copied = planned("deepseek-r1", "h200", 8, 512)
    assert copied.best.deployment.layout.attention_dp > 1
    assert "nothing similar was measured (no row of h200 with vLLM" in first_sentence(copied)
    assert "data-parallel attention" in first_sentence(copied)
    unknown = planned("qwen3-32b", "rtx-4090", 3, 8)
    assert "there are no rows of rtx-4090 with vLLM" in first_sentence(unknown)
    known = planned("llama-3.1-70b", "h200", 8, 64, "fp8")
    assert "nothing similar" not in recommendation(known)
    assert "Measured rows: this model, GPU, engine and layout" in recommendation(known)


@pytest.mark.parametrize("in_flight", [8, 512])
def test_a_latent_cache_shows_what_copies_of_attention_gain_and_cost(in_flight: int) -> None:
    gain = explain(planned("deepseek-r1", "h200", 8, in_flight)).cache
    assert gain is not None
    assert (gain.copied.layout.name, gain.cut.layout.name) == ("DP8 x EP8", "TP8")
    # the latent cache is whole on every rank of TP8; copies hold one each, less their weights
    assert 3 < gain.copied_tokens / gain.cut_tokens < 8
    # alone, seven of eight copies of attention have nothing to do
    assert gain.copied_tpot_s > 1.2 * gain.cut_tpot_s


def test_a_cache_that_tp_cuts_has_nothing_to_gain() -> None:
    assert explain(planned("qwen3-235b-a22b", "h100", 8, 64, "fp8")).cache is None


def test_an_idle_gpu_is_said(ask: Any) -> None:
    del ask
    made = planned("qwen3-32b", "rtx-4090", 3, 8)
    assert made.best.deployment.gpus == 2
    assert "paying for all 3 GPUs (1 is idle) (±" in recommendation(made)


#: model, GPU, GPUs, in flight, dtype -> what an expert expects of the first, and of the reasons
EXPECTED: list[tuple[str, str, int, int, str | None, Any, str]] = [
    # little in flight: weights are read quickest by all GPUs of one replica
    ("deepseek-r1", "h200", 8, 8, None, lambda x: x.name == "TP8", "is reading weights ("),
    ("deepseek-r1", "h200", 8, 64, None, lambda x: x.attention_dp <= 2, "is reading weights ("),
    # 512 x 5,000 tokens: TP8 holds a quarter of them
    ("deepseek-r1", "h200", 8, 512, None, lambda x: x.attention_dp >= 2, "KV cache"),
    # 63 GB of weights fit one GPU, with room for a part of the requests
    ("gpt-oss-120b", "h100", 1, 64, None, lambda x: x.name == "TP1", "is waiting for a slot ("),
    ("gpt-oss-120b", "h100", 2, 64, None, lambda x: x.tp_size == 2, "Runner-up: "),
    ("gpt-oss-120b", "h100", 3, 64, None, lambda x: x.replicas == 3, "Runner-up: 1 x TP2"),
    ("gpt-oss-120b", "h100", 4, 64, None, lambda x: x.tp_size >= 2, "a tie"),
    ("gpt-oss-120b", "h100", 8, 64, None, lambda x: x.replicas >= 2, "Runner-up: "),
    ("gpt-oss-120b", "h100", 8, 8, None, lambda x: x.replicas >= 1, "is reading weights ("),
    # fp8 blocks of 128 do not divide expert widths of 1536 / 8: TP8 needs whole experts
    ("qwen3-235b-a22b", "h100", 4, 64, "fp8", lambda x: x.tp_size == 4, "Runner-up: "),
    ("qwen3-235b-a22b", "h100", 8, 64, "fp8", lambda x: x.name != "TP8", "Runner-up: "),
    ("qwen3.5-397b-a17b", "b200", 8, 64, None, lambda x: x.replicas > 1, "Runner-up: 2 x "),
    ("kimi-k2.5", "h200", 8, 8, None, lambda x: x.tp_size == 8, "times the"),
    ("kimi-k2.5", "h200", 8, 512, None, lambda x: x.attention_dp > 1, "times the"),
    (
        "llama-3.1-70b",
        "rtx-pro-6000",
        2,
        8,
        None,
        lambda x: x.name == "TP2",
        "there are no rows of",
    ),
    # 33 GB in fp8: one GPU is too small, TP3 does not divide 64 heads
    (
        "qwen3-32b",
        "rtx-4090",
        3,
        8,
        None,
        lambda x: x.name in ("TP2", "TP1 x PP3"),
        "there are no rows of",
    ),
]


@pytest.mark.parametrize(("model", "gpu", "gpus", "in_flight", "dtype", "kind", "words"), EXPECTED)
def test_the_first_is_of_the_kind_that_an_expert_expects(
    model: str, gpu: str, gpus: int, in_flight: int, dtype: str | None, kind: Any, words: str
) -> None:
    made = planned(model, gpu, gpus, in_flight, dtype)
    said = recommendation(made)
    assert kind(made.best.deployment.layout), made.best.name
    assert words in said
    assert "Measured rows: " in said
    assert [line for line in said.splitlines() if not line.endswith(".")] == []
    assert not re.search(r"\b(nan|inf|None)\b|-0\.0 |[{}]|  ", said)
    assert (made.best.far != "") == ("nothing similar was measured" in first_sentence(made))


def test_more_in_flight_moves_one_model_from_tp_to_copies_of_attention() -> None:
    few, some, many = (planned("deepseek-r1", "h200", 8, c).best for c in (8, 64, 512))
    assert few.deployment.layout.attention_dp == 1
    assert many.deployment.layout.attention_dp > some.deployment.layout.attention_dp
    assert few.deployment.limits != some.deployment.limits


def test_three_gpus_refuse_tp_3_with_the_heads_that_it_does_not_divide() -> None:
    made = planned("qwen3-32b", "rtx-4090", 3, 8)
    tp3 = [r for r in made.rejected if r.option.layout.tp_size == 3]
    assert tp3
    assert all("TP=3 does not divide the 64 attention heads" in r.reason for r in tp3)


def test_an_idle_gpu_is_explained_by_what_all_of_them_could_run(ask: Any) -> None:
    # 64 heads on 3 GPUs: no TP3. 33 GB in fp8 on 24 GB each: TP2, or three pipeline stages
    found = plan(ask("qwen3-32b", "rtx-4090", 3, Demand(4000, 1000, 8)))
    idle = explain(found).idle
    assert idle is not None
    assert idle.count == 1
    assert "64 attention heads" in idle.tensor_parallel
    assert idle.full is not None
    assert idle.full.deployment.layout.pp_size == 3
    first, full = (c.node_output_tok_s.value for c in (found.best, idle.full))
    assert idle.apart_pct == pytest.approx(100 * (first / full - 1))
    assert "1 GPU is idle. TP3 is impossible: TP=3 does not divide the 64 attention heads." in (
        recommendation(found)
    )


def test_no_gpu_is_called_idle_where_all_work(ask: Any) -> None:
    found = plan(ask("llama-3.1-8b", "h100", 3, Demand(4000, 1000, 64)))
    assert found.best.deployment.gpus == 3
    assert explain(found).idle is None
    assert "idle" not in recommendation(found)


def test_rows_of_another_dtype_are_named_where_there_are_none_of_the_first() -> None:
    """Qwen3.5-397B was measured in fp8, with SGLang; the plan for B200 is in nvfp4."""
    made = planned("qwen3.5-397b-a17b", "b200", 8, 64)
    assert made.best.deployment.dtypes.weight == "nvfp4"
    assert explain(made).nearest.startswith("b200 with sglang as TP4")
    assert explain(made).nearest.endswith("(weights in fp8)")
    assert "(weights in" not in explain(planned("deepseek-r1", "h200", 8, 64)).nearest
    assert explain(planned("kimi-k2.5", "h200", 8, 8)).nearest == ""


def test_a_tie_that_ttft_decides_gives_both() -> None:
    made = planned("qwen3-235b-a22b", "h100", 8, 512)
    other = explain(made).runner_up
    assert other is not None
    assert other.reason == "ttft"
    sooner, later = (c.evidence.metrics["ttft_s"].value for c in (made.best, other.candidate))
    assert sooner < later
    assert f"its TTFT is {later:.1f} s instead of {sooner:.1f} s" in recommendation(made)
