"""The matrix multiplications of a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.architecture.models import bundled, load
from shardwise.layout.deployment import Layout
from shardwise.layout.gemms import step_gemms
from shardwise.layout.shards import rank_shards


def test_llama_70b_at_tp8() -> None:
    rank = rank_shards(load("llama-3.1-70b"), Layout(8))
    shapes = {g.name: (g.m, g.n, g.k, g.count) for g in step_gemms(rank, 16)}
    # 8 query heads and one K and one V head of 128; 28672 / 8 = 3584; 128256 / 8 = 16032
    assert shapes == {
        "qkv_proj": (16, 1280, 8192, 80),
        "o_proj": (16, 8192, 1024, 80),
        "gate_up_proj": (16, 7168, 8192, 80),
        "down_proj": (16, 8192, 3584, 80),
        "lm_head": (16, 16032, 8192, 1),
    }


def test_one_token_meets_top_k_experts() -> None:
    gemms = step_gemms(rank_shards(load("mixtral-8x7b"), Layout()), 1)
    up = next(g for g in gemms if g.name == "experts.gate_up_proj")
    assert (up.m, up.count) == (1, 2 * 32)


@given(model=st.sampled_from(bundled()))
def test_a_large_step_reads_every_matrix_once(model: str) -> None:
    found = load(model)
    rank = rank_shards(found, Layout())
    read = sum(g.n * g.k * g.count for g in step_gemms(rank, 65536))
    looked_up = 0 if found.tie_embeddings else found.embedding.parameters
    assert read == pytest.approx(found.parameters() - looked_up, rel=5e-3)
