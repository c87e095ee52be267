"""Which TP x PP a model allows, what a rank then holds, and the GEMMs it makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwise.architecture.gemm import gemm_shapes
from shardwise.architecture.parameters import count, weight_bytes
from shardwise.architecture.rank import padded_vocab, rank_parameters, rank_weight_bytes
from shardwise.architecture.sharding import (
    allowed_tp,
    require_shardable,
    uneven_stages,
    violations,
)

from shardwise.architecture.models import bundled, load
from shardwise.errors import InputError


def test_tp_size_must_divide_the_heads() -> None:
    found = violations(load("llama-3.1-70b"), 3)
    assert found[0].rule == "attention_heads"
    assert found[0].nearest == 2
    with pytest.raises(InputError, match=r"TP=3 .* 64 .*allowed TP: 1, 2, 4, 8, 16, 32, 64"):
        require_shardable(load("llama-3.1-70b"), 3)


def test_tp_size_must_divide_or_replicate_the_kv_heads() -> None:
    # 40 heads and 8 KV heads: 5 divides the heads, and neither divides nor is a multiple of 8
    assert violations(load("qwen3-14b"), 5)[0].rule == "kv_heads"
    assert violations(load("llama-3.1-70b"), 16) == []
    assert allowed_tp(load("smollm2-135m"), 8) == (1, 3)


def test_a_scale_block_is_not_cut() -> None:
    # experts of 1536 / 8 = 192 are one and a half blocks of 128; whole experts are not cut
    arch = replace(load("qwen3-235b-a22b"), checkpoint_dtype="fp8", quantization_block=128)
    assert [v.rule for v in violations(arch, 8)] == ["quantization_block"]
    assert violations(arch, 8)[0].nearest == 4
    assert violations(arch, 8, weight_dtype="bf16") == []
    assert violations(arch, 8, expert_parallel=True) == []


def test_published_deployments_are_allowed() -> None:
    for model, tp in (("deepseek-r1", 8), ("gpt-oss-120b", 8), ("llama-3.1-405b", 8)):
        assert violations(load(model), tp) == []


def test_expert_parallelism_needs_experts_that_the_ranks_divide() -> None:
    assert violations(load("llama-3.1-8b"), 2, expert_parallel=True)[0].rule == "experts"
    assert violations(load("mixtral-8x7b"), 16, expert_parallel=True)[0].rule == "experts"


@pytest.mark.parametrize("tp", [0, -1, 10**9])
def test_absurd_tp_is_out_of_range(tp: int) -> None:
    assert violations(load("llama-3.1-8b"), tp)[0].rule == "tp_range"


def test_pp_is_at_most_the_layers_and_may_be_uneven() -> None:
    arch = load("llama-3.1-405b")
    assert violations(arch, 8, 127)[0].nearest == 126
    assert uneven_stages(arch, 2) == ""
    # 126 = 2 x 32 + 2 x 31
    assert uneven_stages(arch, 4) == "PP=4: 2 of 4 stages have 32 layers, the others 31"


def test_the_vocabulary_is_padded() -> None:
    # 100 rows: 128 at TP=1; at TP=3 the next multiple of 192
    arch = replace(load("llama-3.1-8b"), vocab_size=100)
    np.testing.assert_array_equal(padded_vocab(arch, np.array([1, 2, 3])), [128, 128, 192])


def test_tp1_holds_the_whole_model() -> None:
    for model in bundled():
        arch = load(model)
        padding = float(padded_vocab(arch)) - arch.vocab_size
        copies = 1 if arch.tie_embeddings else 2
        held = sum(float(n) for n in rank_parameters(arch).values())
        # qk norms and MLA's latent norms count as norms; nothing else is left out
        assert held == pytest.approx(count(arch).total + copies * padding * arch.hidden_size)


def test_what_is_replicated_on_llama_70b_tp16() -> None:
    # K and V: one head of 128 each a rank though 8 / 16 heads would be half of one
    h, per_layer = 8192, 8192 * 128
    expected = 80 * (2 * h * h / 16 + 2 * per_layer)
    assert float(rank_parameters(load("llama-3.1-70b"), 16)["attention"]) == expected


@given(
    model=st.sampled_from(bundled()),
    dtype=st.sampled_from(["auto", "bf16", "fp8", "fp4"]),
    pp=st.integers(1, 8),
)
def test_rank_bytes_never_rise_with_tp_and_shards_cover_the_weights(
    model: str, dtype: str, pp: int
) -> None:
    arch = load(model)
    tp = np.array(allowed_tp(arch, 64))
    held = rank_weight_bytes(arch, dtype, tp, pp)
    assert (np.diff(held) <= 1e-6 * held[:-1]).all()
    # the stages count the larger end only: both ends are on the fullest rank's bill once
    embedding = 2.0 * arch.vocab_size * arch.hidden_size
    assert (held * tp * pp >= weight_bytes(arch, dtype) - embedding - 1.0).all()
    assert (held * tp >= weight_bytes(arch, dtype) - 1.0).all() or pp > 1


def test_gemm_shapes_of_llama_70b_at_tp8() -> None:
    shapes = {g.name: (g.m, g.n, g.k, g.count) for g in gemm_shapes(load("llama-3.1-70b"), 8, 16)}
    # 8 query heads and one K and one V head of 128; 28672 / 8 = 3584; 128256 / 8 = 16032
    assert shapes == {
        "qkv_proj": (16, 1280, 8192, 80),
        "o_proj": (16, 8192, 1024, 80),
        "mlp.gate_up_proj": (16, 7168, 8192, 80),
        "mlp.down_proj": (16, 8192, 3584, 80),
        "lm_head": (16, 16032, 8192, 1),
    }


@given(model=st.sampled_from(bundled()))
def test_gemms_of_a_large_step_read_every_matrix_once(model: str) -> None:
    arch = load(model)
    read = sum(g.n * g.k * g.count for g in gemm_shapes(arch, 1, 4096))
    assert read == pytest.approx(count(arch).total - count(arch).embedding * bool(
        count(arch).lm_head), rel=2e-3)  # fmt: skip


def test_one_token_meets_top_k_experts() -> None:
    up = next(g for g in gemm_shapes(load("mixtral-8x7b"), 1, 1) if "experts.gate" in g.name)
    assert (up.m, up.count) == (1, 2 * 32)
