"""Layouts that are looked at: TP x PP x copies, whole experts, copies of attention."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.engines.registry import get
from shardwise.layout.deployment import Layout
from shardwise.planner.candidates import enumerate_candidates, layouts
from shardwise.planner.plan import explore, plan
from shardwise.planner.question import Demand

VLLM, TRTLLM, BUILTIN = (get(name).capabilities for name in ("vllm", "trtllm", "builtin"))


def names(gpus: int, experts: bool = False, capabilities: Any = VLLM) -> set[str]:
    return {f"{x.replicas} x {x.name}" for x in layouts(gpus, experts, capabilities)}


def test_three_gpus_are_one_tp_a_pipeline_or_three_copies() -> None:
    # TP2 and PP2 leave one GPU idle
    assert names(3) == {"3 x TP1", "1 x TP1 x PP2", "1 x TP1 x PP3", "1 x TP2", "1 x TP3"}


def test_six_gpus_have_pipelines_of_three_and_six() -> None:
    assert {"2 x TP1 x PP3", "1 x TP2 x PP3", "1 x TP1 x PP6", "1 x TP3 x PP2"} <= names(6)


def test_a_mixture_of_experts_also_has_whole_experts_and_copies_of_attention() -> None:
    more = names(4, experts=True) - names(4)
    assert more == {
        *("2 x TP2 x EP2", "1 x TP4 x EP4"),
        *("2 x DP2 x EP2", "1 x DP4 x EP4", "1 x TP2 x DP2 x EP4"),
    }


def test_what_an_engine_has_no_flag_for_is_not_looked_at() -> None:
    # TensorRT-LLM's copies of attention have a GPU each
    assert not any("TP2 x DP" in name for name in names(8, True, TRTLLM))
    assert "1 x DP8 x EP8" in names(8, True, TRTLLM)
    assert not any("DP" in name for name in names(8, True, BUILTIN))


@given(st.integers(1, 16), st.booleans())
def test_no_layout_takes_more_gpus_than_there_are_or_comes_twice(gpus: int, experts: bool) -> None:
    found = list(layouts(gpus, experts, VLLM))
    assert all(x.gpus <= gpus < x.gpus + x.replica_gpus for x in found)
    assert len(set(found)) == len(found)


def test_a_dense_model_has_no_copies_of_attention(ask: Any) -> None:
    possible, rejected = enumerate_candidates(ask())
    assert not any(o.layout.attention_dp > 1 or o.layout.expert_parallel for o in possible)
    assert not any("attention DP" in r.reason for r in rejected)


def test_limits_are_those_of_each_copy_of_attention(ask: Any) -> None:
    made = explore(ask("qwen3-235b-a22b", "h200", 8, Demand(1024, 256, 100), weight_dtype="fp8"))
    copied = next(c for c in made.ranked if c.deployment.layout == Layout(1, 1, 8, 8))
    # 100 in flight over 8 copies are 13 in the fullest; engines capture graphs for 16
    assert copied.deployment.limits.max_num_seqs == 16
    whole = next(c for c in made.ranked if c.deployment.layout == Layout(8, 1, 8))
    assert whole.deployment.limits.max_num_seqs == 104


def test_many_requests_of_a_latent_cache_move_attention_from_tp_to_copies(ask: Any) -> None:
    few, many = (plan(ask("deepseek-r1", "h200", 8, Demand(4000, 1000, c))).best for c in (8, 512))
    assert few.deployment.layout.attention_dp == 1
    # the latent cache is whole on every rank of TP: 512 sequences do not fit
    assert many.deployment.layout.attention_dp > 1


def test_more_copies_of_attention_hold_more_of_a_latent_cache(ask: Any) -> None:
    asked = ask("deepseek-r1", "h200", 8, Demand(4000, 1000, 512))
    waiting = {
        c.deployment.layout.attention_dp: c.evidence.breakdown["queueing"]
        for c in explore(asked).ranked
        if c.deployment.pp_size == c.deployment.layout.dcp_size == 1
        and c.deployment.layout.expert_parallel
    }
    assert waiting[1] > waiting[2] > waiting[4] >= waiting[8]


def shared(ask: Any, model: str, engine: str = "vllm", gpu: str = "h200") -> set[str]:
    possible, rejected = enumerate_candidates(ask(model, gpu, 8, engine=engine))
    assert not any("DCP" in r.reason for r in rejected)
    return {o.layout.name for o in possible if o.layout.dcp_size > 1}


def test_a_cache_is_shared_where_tp_keeps_copies_and_the_engine_can(ask: Any) -> None:
    assert {"TP8 x DCP8", "TP8 x EP8 x DCP4", "TP4 x DCP2"} <= shared(ask, "deepseek-r1")
    assert shared(ask, "qwen3-235b-a22b") == {"TP8 x DCP2", "TP8 x EP8 x DCP2"}
    assert "TP8 x DCP8" in shared(ask, "deepseek-r1", "sglang")
    for model, engine, gpu in (
        ("llama-3.1-70b", "vllm", "h200"),  # as many KV heads as ranks
        ("gpt-oss-120b", "vllm", "h200"),  # windows
        ("qwen3-235b-a22b", "sglang", "h200"),
        ("deepseek-r1", "trtllm", "h200"),
        ("deepseek-r1", "vllm", "mi300x"),
    ):
        assert not shared(ask, model, engine, gpu)


def test_long_contexts_in_flight_move_a_latent_cache_from_tp_to_shares(ask: Any) -> None:
    made = explore(ask("deepseek-r1", "h200", 8, Demand(60000, 400, 64)))
    waiting = {
        c.deployment.layout.name: c.evidence.breakdown["queueing"]
        for c in made.ranked
        if c.deployment.pp_size == 1
    }
    assert waiting["TP8"] > waiting["TP8 x DCP2"] > waiting["TP8 x DCP8"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_command_of_copied_attention_names_its_size(ask: Any, engine: str) -> None:
    from shardwise.planner.command import checkpoint, engine_command

    asked = ask("deepseek-r1", "h200", 8, Demand(4000, 1000, 512), engine=engine)
    copied = next(
        c.deployment for c in explore(asked).ranked if c.deployment.layout == Layout(1, 1, 8, 8)
    )
    stored = checkpoint("deepseek-r1", asked.arch, copied)
    line = " ".join(engine_command(copied, asked.arch, asked.node.gpu, stored).argv)
    if engine == "vllm":
        assert "--tensor-parallel-size 1 --data-parallel-size 8 --enable-expert-parallel" in line
        assert "--max-num-seqs 64 " in line
    else:
        assert "--tp-size 8 --dp-size 8 --enable-dp-attention --ep-size 8" in line
        assert "--max-running-requests 512 " in line
