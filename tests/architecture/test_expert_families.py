"""Mixtures of experts and latent attention by hand, at tiny sizes."""

from __future__ import annotations

from typing import Any, Final

import pytest

from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.mixers import Mla
from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse

HIDDEN, WIDTH, EXPERT, LAYERS, VOCAB = 64, 128, 32, 4, 100
COUNT, CHOSEN, SHARED = 8, 2, 48
ATTENTION = 2 * 64 * 64 + 2 * 64 * 32
ROUTER = HIDDEN * COUNT
OUTSIDE = 2 * VOCAB * HIDDEN + HIDDEN
BASE: Final[dict[str, Any]] = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "num_experts_per_tok": CHOSEN,
    "tie_word_embeddings": False,
}
QWEN: Final = {"num_experts": COUNT, "moe_intermediate_size": EXPERT}


def gated(width: int) -> int:
    return 3 * HIDDEN * width


#: model type -> (what its file has besides, parameters of a layer)
BY_HAND: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "mixtral": (
        {"num_local_experts": COUNT},
        ATTENTION + ROUTER + COUNT * gated(WIDTH) + 2 * HIDDEN,
    ),
    # a norm of 16 for query heads and one for key heads
    "qwen3_moe": (QWEN, ATTENTION + 2 * 16 + ROUTER + COUNT * gated(EXPERT) + 2 * HIDDEN),
    # biases of queries, keys and values; a shared expert behind a gate of one output
    "qwen2_moe": (
        {**QWEN, "shared_expert_intermediate_size": SHARED},
        ATTENTION + 128 + ROUTER + COUNT * gated(EXPERT) + gated(SHARED) + HIDDEN + 2 * HIDDEN,
    ),
    # norms over all query heads (64) and all key heads (32) together
    "olmoe": (
        {"num_experts": COUNT},
        ATTENTION + 64 + 32 + ROUTER + COUNT * gated(WIDTH) + 2 * HIDDEN,
    ),
}


def model(family: str, **more: Any) -> Model:
    return parse({**BASE, "model_type": family, **BY_HAND[family][0], **more}, "tiny")


@pytest.mark.parametrize("family", BY_HAND)
def test_parameters_are_those_counted_by_hand(family: str) -> None:
    assert model(family).parameters() == LAYERS * BY_HAND[family][1] + OUTSIDE


@pytest.mark.parametrize("family", BY_HAND)
def test_a_token_takes_its_chosen_experts_alone(family: str) -> None:
    found = model(family)
    (group,) = found.groups
    assert isinstance(group.feed_forward, Moe)
    one = gated(group.feed_forward.expert_width)
    idle = LAYERS * (COUNT - CHOSEN) * one
    assert found.parameters() - found.active_parameters >= idle
    every = model(family, num_experts_per_tok=COUNT)
    assert every.active_parameters - found.active_parameters == idle


@pytest.mark.parametrize("family", BY_HAND)
def test_more_experts_than_there_are_cannot_be_chosen(family: str) -> None:
    from shardwise.errors import InputError

    with pytest.raises(InputError, match="num_experts_per_tok"):
        model(family, num_experts_per_tok=COUNT + 1)


Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 24, 32, 16, 8, 16
LATENT: Final[dict[str, Any]] = {
    **BASE,
    "q_lora_rank": Q_RANK,
    "kv_lora_rank": KV_RANK,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE,
    "n_routed_experts": COUNT,
    "n_shared_experts": 1,
    "moe_intermediate_size": EXPERT,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
}
#: DeepSeek-V2, arXiv:2405.04434, section 2.1: queries and cache entries are compressed first
MLA: Final = (
    HIDDEN * Q_RANK + Q_RANK + Q_RANK * 4 * (NOPE + ROPE)
    + HIDDEN * (KV_RANK + ROPE) + KV_RANK + KV_RANK * 4 * (NOPE + VALUE)
    + 4 * VALUE * HIDDEN
)  # fmt: skip
SPARSE: Final = ROUTER + COUNT * gated(EXPERT) + gated(EXPERT)


@pytest.mark.parametrize(("family", "bias"), [("deepseek_v2", 0), ("deepseek_v3", COUNT)])
def test_latent_attention_and_experts_of_deepseek(family: str, bias: int) -> None:
    found = parse({**LATENT, "model_type": family}, "tiny")
    dense = MLA + gated(WIDTH) + 2 * HIDDEN
    sparse = MLA + SPARSE + bias + 2 * HIDDEN  # V3's router has a bias for each expert
    assert found.parameters() == dense + 3 * sparse + OUTSIDE


def test_a_token_leaves_one_compressed_entry_whatever_the_heads() -> None:
    for heads in (4, 8):
        found = parse({**LATENT, "model_type": "deepseek_v3", "num_attention_heads": heads}, "tiny")
        for group in found.groups:
            assert isinstance(group.mixer, Mla)
            assert sum(cache.elements for cache in group.mixer.caches) == KV_RANK + ROPE


@pytest.mark.parametrize("dense", [0, 1, 3, 4])
def test_the_first_layers_are_dense(dense: int) -> None:
    given = {**LATENT, "model_type": "deepseek_v3", "first_k_dense_replace": dense}
    found = parse(given, "tiny")
    kinds = {i: type(g.feed_forward) for g in found.groups for i in g.layers}
    assert [kinds[i] for i in range(LAYERS)] == [Mlp] * dense + [Moe] * (LAYERS - dense)
