"""Decode context parallelism: who may share a cache, and what each rank keeps of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.architecture.model import Model
from shardwise.architecture.models import load
from shardwise.errors import InputError
from shardwise.layout.deployment import Layout, layout_of
from shardwise.layout.rules import context_parallel_sizes, require_layout
from shardwise.layout.shards import rank_shards

DEEPSEEK, QWEN, LLAMA = (load(x) for x in ("deepseek-r1", "qwen3-235b-a22b", "llama-3.1-70b"))


def kept(model: str, layout: str, tokens: float = 8192.0) -> float:
    """Bytes of cache of one sequence on a rank."""
    return float(rank_shards(load(model), layout_of(layout)).cache_bytes(tokens, "bf16")[0])


def test_a_name_says_how_many_ranks_share() -> None:
    assert layout_of("TP8xDCP8") == Layout(8, dcp_size=8)
    assert Layout(8, ep_size=8, dcp_size=4).name == "TP8 x EP8 x DCP4"
    assert Layout(8, dcp_size=8).replica_gpus == 8


def test_a_latent_cache_of_8_ranks_is_shared_by_up_to_all_of_them() -> None:
    # vLLM, docs/serving/context_parallel_deployment.md: DeepSeek-R1, -tp 8 -dcp 8
    assert context_parallel_sizes(DEEPSEEK, 8) == (2, 4, 8)
    assert context_parallel_sizes(DEEPSEEK, 1) == ()
    whole = 61 * 8192 * (512 + 64) * 2.0
    assert kept("deepseek-r1", "TP8") == whole
    assert kept("deepseek-r1", "TP8xDCP8") == whole / 8


def test_copies_of_4_kv_heads_on_8_ranks_are_shared_by_two() -> None:
    # the same page: Qwen3-235B-A22B, 4 KV heads, -tp 8 -dcp 2
    assert context_parallel_sizes(QWEN, 8) == (2,)
    assert context_parallel_sizes(QWEN, 4) == ()
    assert kept("qwen3-235b-a22b", "TP8xDCP2") == kept("qwen3-235b-a22b", "TP8") / 2


def test_nothing_is_shared_where_tp_keeps_no_copies() -> None:
    assert context_parallel_sizes(LLAMA, 8) == ()  # 8 KV heads
    with pytest.raises(InputError, match="no copy of the 8 KV heads' cache") as error:
        require_layout(LLAMA, Layout(8, dcp_size=2))
    assert "allowed DCP at TP=8: 1" in str(error.value)
    assert context_parallel_sizes(LLAMA, 16) == (2,)


def test_windows_sparse_attention_and_states_beside_kv_heads_are_refused() -> None:
    """vLLM, v1/core/single_type_kv_cache_manager.py: "DCP not support sliding window attn now."."""
    for name, why in (
        ("gpt-oss-120b", "sliding windows"),
        ("deepseek-v3.2", "sparse attention"),
        ("qwen3.5-397b-a17b", "states"),
    ):
        with pytest.raises(InputError, match=why):
            require_layout(load(name), Layout(8, dcp_size=2))


@given(st.sampled_from([DEEPSEEK, QWEN, LLAMA]), st.sampled_from([2, 4, 8, 16]))
def test_all_ranks_together_keep_each_sequence_a_whole_number_of_times(
    model: Model, tp_size: int
) -> None:
    one = rank_shards(model, Layout()).cache_bytes(4096.0, "bf16")[0]
    for dcp in (1, *context_parallel_sizes(model, tp_size)):
        rank = rank_shards(model, Layout(tp_size, dcp_size=dcp))
        times = tp_size * float(rank.cache_bytes(4096.0, "bf16")[0]) / float(one)
        assert times == pytest.approx(round(times))
        assert times >= 1.0
