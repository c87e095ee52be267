"""Which layouts a model allows."""

from __future__ import annotations

import pytest

from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import load
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Layout
from shardwise.layout.rules import (
    allowed_tp,
    require_kv_dtype,
    require_layout,
    uneven_stages,
    violations,
)


def whole_experts(tp_size: int) -> Layout:
    return Layout(tp_size, ep_size=tp_size)


def test_tp_size_must_divide_the_heads() -> None:
    found = violations(load("llama-3.1-70b"), Layout(3))
    assert found[0].rule == "attention_heads"
    assert found[0].nearest == 2
    with pytest.raises(InputError, match=r"TP=3 .* 64 .*allowed TP: 1, 2, 4, 8, 16, 32, 64"):
        require_layout(load("llama-3.1-70b"), Layout(3))


def test_tp_size_must_divide_or_replicate_the_kv_heads() -> None:
    # 40 heads and 8 KV heads: 5 divides the heads, and neither divides nor is a multiple of 8
    assert violations(load("qwen3-14b"), Layout(5))[0].rule == "kv_heads"
    assert violations(load("llama-3.1-70b"), Layout(16)) == []
    assert allowed_tp(load("smollm2-135m"), 8) == (1, 3)


def test_a_scale_block_is_not_cut() -> None:
    # experts of 1536 / 8 = 192 are one and a half blocks of 128; whole experts are not cut
    fp8 = load("Qwen/Qwen3-235B-A22B-FP8")
    assert {v.rule for v in violations(fp8, Layout(8))} == {"weight_cut"}
    assert violations(fp8, Layout(8))[0].nearest == 4
    assert violations(in_dtype(fp8, "bf16"), Layout(8)) == []
    assert violations(fp8, whole_experts(8)) == []


def test_published_deployments_are_allowed() -> None:
    for model, tp in (("deepseek-r1", 8), ("gpt-oss-120b", 8), ("llama-3.1-405b", 8)):
        assert violations(load(model), Layout(tp)) == []


def test_expert_parallelism_needs_experts_that_the_ranks_divide() -> None:
    assert violations(load("llama-3.1-8b"), whole_experts(2))[0].rule == "experts"
    assert violations(load("mixtral-8x7b"), whole_experts(16))[0].rule == "experts"
    # the nearest TP is a TP that the heads allow, although no EP is
    assert violations(load("llama-3.1-8b"), whole_experts(3))[0].nearest == 2


def test_whole_experts_are_spread_over_all_ranks_of_data_parallel_attention() -> None:
    assert violations(load("deepseek-r1"), Layout(1, ep_size=8, attention_dp=8)) == []
    broken = violations(load("deepseek-r1"), Layout(2, ep_size=16, attention_dp=3))
    assert [v.message for v in broken] == ["EP=16 does not divide the 6 ranks of a stage"]


@pytest.mark.parametrize("tp", [0, -1, 10**9])
def test_absurd_tp_is_out_of_range(tp: int) -> None:
    assert violations(load("llama-3.1-8b"), Layout(tp))[0].rule == "tp_range"


def test_pp_is_at_most_the_layers_and_may_be_uneven() -> None:
    model = load("llama-3.1-405b")
    assert violations(model, Layout(8, 127))[0].nearest == 126
    assert uneven_stages(model, 2) == ""
    # 126 = 2 x 32 + 2 x 31
    assert uneven_stages(model, 4) == "PP=4: 2 of 4 stages have 32 layers, the others fewer"


def test_an_fp8_cache_needs_fp8_units() -> None:
    require_kv_dtype("fp8", default_catalogue().gpu("h100"))
    with pytest.raises(InputError, match="no fp8 units; allowed: auto, bf16"):
        require_kv_dtype("fp8", default_catalogue().gpu("a100-80gb"))
    with pytest.raises(InputError, match="int8"):
        require_kv_dtype("int8", default_catalogue().gpu("h100"))
