"""What a rank holds: tensors, caches, bytes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.model import Model, in_dtype
from shardwise.architecture.models import bundled, load
from shardwise.layout.deployment import Layout
from shardwise.layout.rules import allowed_tp, violations
from shardwise.layout.shards import padded, rank_shards

MODELS = st.sampled_from(bundled())
DTYPES = st.sampled_from(["auto", "bf16", "fp8", "fp4"])


TP1 = Layout()


def cache(model: str, context: float, kv_dtype: str = "bf16", layout: Layout = TP1) -> float:
    """Bytes of a sequence on the fullest rank."""
    return float(rank_shards(load(model), layout).cache_bytes(context, kv_dtype).max())


def test_gqa_bytes_per_token() -> None:
    # 80 layers x (K and V) x 8 heads x 128 x 2 bytes
    assert cache("llama-3.1-70b", 1) == 80 * 2 * 8 * 128 * 2 == 327_680
    assert cache("llama-3.1-70b", 1, "fp8") == 163_840


def test_tp_above_the_kv_heads_replicates_them() -> None:
    held = [cache("llama-3.1-70b", 1, "bf16", Layout(tp)) for tp in (1, 2, 4, 8, 16, 32)]
    assert [h / (80 * 2 * 128 * 2) for h in held] == [8, 4, 2, 1, 1, 1]


def test_the_mla_latent_is_whole_on_every_rank() -> None:
    # 61 layers x (512 + 64) x 2 bytes, whatever the TP
    assert cache("deepseek-r1", 1) == cache("deepseek-r1", 1, layout=Layout(8)) == 70_272


def test_sliding_layers_hold_their_window_at_most() -> None:
    # gpt-oss-120b: 18 full and 18 sliding layers (128) of 2 x 8 x 64 elements
    token_layer = 2 * 8 * 64 * 2
    assert cache("gpt-oss-120b", 100.0) == 36 * 100 * token_layer
    assert cache("gpt-oss-120b", 1128.0) == (18 * 1128 + 18 * 128) * token_layer


def test_the_fullest_stage_of_pp_is_counted() -> None:
    # 126 layers over 4 stages: the fullest has 32
    assert cache("llama-3.1-405b", 1, layout=Layout(1, 4)) == 32 * 2 * 8 * 128 * 2


def test_deepseek_r1_holds_the_same_dense_weights_for_memory_and_speed() -> None:
    # a rank of eight has an eighth of the heads and of dense and shared experts, and all of the
    # latent projections, the router and the norms
    rank = rank_shards(load("deepseek-r1"), Layout(8))
    attention = (
        7168 * 1536  # q_a, whole
        + 1536 * 128 * 192 / 8  # q_b
        + 7168 * (512 + 64)  # kv_a, whole
        + 512 * 128 * (128 + 128) / 8  # kv_b
        + 128 * 128 * 7168 / 8  # o
    )
    assert rank.parameters("attention") == 61 * attention
    assert rank.parameters("mlp") == 3 * 3 * 7168 * 18432 / 8
    assert rank.parameters("shared_experts") == 58 * 3 * 7168 * 2048 / 8
    assert rank.parameters("experts") == 58 * 256 * 3 * 7168 * 2048 / 8


def test_what_is_replicated_on_llama_70b_tp16() -> None:
    # K and V: one head of 128 each a rank though 8 / 16 heads would be half of one
    h, kv = 8192, 8192 * 128
    held = rank_shards(load("llama-3.1-70b"), Layout(16)).parameters("attention")
    assert held == 80 * (2 * h * h / 16 + 2 * kv)


def test_whole_experts_take_the_same_bytes_as_cut_ones() -> None:
    model = load("deepseek-r1")
    cut, whole = (rank_shards(model, Layout(8, ep_size=ep)).parameters("experts") for ep in (1, 8))
    assert cut == whole
    # with attention on each of eight GPUs, experts are spread over the eight, attention is not
    spread = rank_shards(model, Layout(1, ep_size=8, attention_dp=8))
    assert spread.parameters("experts") == whole
    assert spread.parameters("attention") == rank_shards(model, Layout()).parameters("attention")


def test_the_vocabulary_is_padded() -> None:
    # 100 rows: 128 at TP=1; at TP=3 the next multiple of 192
    assert [padded(100, tp) for tp in (1, 2, 3)] == [128, 128, 192]


def test_gemms_of_llama_70b_at_tp8() -> None:
    rank = rank_shards(load("llama-3.1-70b"), Layout(8))
    found = {g.name: (g.n, g.k) for g in rank.layers[0].gemms}
    # 8 query heads and one K and one V head of 128; 28672 / 8 = 3584
    assert found == {
        "qkv_proj": (1280, 8192),
        "o_proj": (8192, 1024),
        "gate_up_proj": (7168, 8192),
        "down_proj": (8192, 3584),
    }


def padding(model: Model) -> int:
    """Elements that the padded vocabulary adds at TP=1."""
    outer = [t for t in model.outer if t.part in ("embedding", "lm_head") and t.cols > 1]
    return sum((padded(t.rows, 1) - t.rows) * t.cols for t in outer)


@given(model=MODELS)
def test_tp1_holds_the_whole_model(model: str) -> None:
    found = load(model)
    assert rank_shards(found, Layout()).parameters() == found.parameters() + padding(found)


@settings(deadline=None)
@given(model=MODELS, dtype=DTYPES, pp=st.integers(1, 8), whole=st.booleans())
def test_ranks_hold_at_least_the_model_and_never_more_with_tp(
    model: str, dtype: str, pp: int, whole: bool
) -> None:
    stored = in_dtype(load(model), dtype)
    whole = whole and stored.moe is not None
    held = []
    for tp in allowed_tp(stored, 16, expert_parallel=whole):
        layout = Layout(tp, min(pp, stored.num_layers), tp if whole else 1)
        if violations(stored, layout):
            continue
        rank = rank_shards(stored, layout)
        # all ranks of all stages together hold every weight, and what is replicated on top
        assert sum(rank.stage_bytes) * tp >= stored.weight_bytes * (1 - 1e-9)
        held.append(rank.weight_bytes)
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(held))


@settings(deadline=None)
@given(model=MODELS, tp=st.sampled_from([1, 2, 4, 8]))
def test_what_ranks_hold_beyond_the_model_is_what_is_named_replicated(model: str, tp: int) -> None:
    found = load(model)
    layout = Layout(tp)
    if violations(found, layout):
        return
    rank = rank_shards(found, layout)
    copied = 0.0
    for layer in rank.layers:
        for shard in layer.shards:
            t = shard.tensor
            extra = tp * shard.parameters - t.parameters
            assert extra >= 0
            if extra:  # copies of whole tensors, or of heads beyond their number
                assert t.cut == "replicated" or (t.units and tp > t.units)
            copied += layer.group.count * extra
    layers = sum(group.count * t.parameters for group in found.groups for t in group.tensors)
    together = sum(layer.group.count * s.parameters for layer in rank.layers for s in layer.shards)
    assert tp * together == pytest.approx(layers + copied)


@settings(deadline=None)
@given(model=MODELS, context=st.integers(1, 100_000), tp=st.sampled_from([1, 2, 4, 8]))
def test_caches_grow_with_the_context_and_never_with_tp(model: str, context: int, tp: int) -> None:
    rank, wider = (rank_shards(load(model), Layout(n)) for n in (tp, 2 * tp))
    tokens = np.array([context, context + 1.0])
    held = rank.cache_bytes(tokens, "bf16").sum(axis=0)
    assert held[0] <= held[1]
    assert (wider.cache_bytes(tokens, "bf16").sum(axis=0) <= held).all()


def test_one_token_meets_top_k_experts() -> None:
    group = load("mixtral-8x7b").groups[0]
    assert isinstance(group.feed_forward, Moe)
    assert (group.feed_forward.top_k, group.feed_forward.num_experts) == (2, 8)
