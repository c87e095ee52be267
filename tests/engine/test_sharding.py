"""Where weights are cut; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.engine import sharding
from shardwise.engine.config import ModelConfig, from_json
from shardwise.errors import InputError


def model(
    heads: int = 8,
    kv_heads: int = 2,
    head_dim: int = 4,
    intermediate: int = 24,
    vocab: int = 50,
    experts: int = 0,
) -> ModelConfig:
    return ModelConfig(
        family="mixtral" if experts else "llama",
        hidden_size=16,
        num_layers=2,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        max_context=64,
        sliding_window=0,
        norm_eps=1e-6,
        rope_theta=1e4,
        rope_scaling={"rope_type": "default"},
        tie_embeddings=False,
        attention_bias=True,
        output_bias=True,
        qk_norm=True,
        num_experts=experts,
        top_k=min(experts, 2),
        norm_topk=True,
        dtype="fp32",
        eos_token_ids=(),
    )


@st.composite
def sharded_models(draw: st.DrawFn) -> tuple[ModelConfig, int]:
    kv_heads = draw(st.integers(1, 8))
    config = model(
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 16])),
        intermediate=draw(st.integers(1, 100)),
        vocab=draw(st.integers(1, 1000)),
        experts=draw(st.sampled_from([0, 3])),
    )
    return config, draw(st.sampled_from(sharding.allowed_tp_sizes(config)))


@given(sharded_models())
def test_shards_partition_every_weight_exactly(case: tuple[ModelConfig, int]) -> None:
    config, tp_size = case
    for weight in sharding.weights(config):
        shards = [sharding.shard(weight, config, tp_size, rank) for rank in range(tp_size)]
        held = [(s.start, s.stop) for s in shards]
        size = weight.shape[weight.dim]
        if weight.axis == "none":
            assert set(held) == {(0, size)}
            continue
        # a KV head may be on several ranks, in equal number; else each element is on one rank
        copies = max(tp_size // config.num_kv_heads, 1) if weight.axis == "kv_heads" else 1
        count = [0] * size
        for start, stop in held:
            for element in range(start, stop):
                count[element] += 1
        assert count == [copies] * size


@given(sharded_models())
def test_each_rank_has_the_kv_heads_of_its_query_heads(case: tuple[ModelConfig, int]) -> None:
    config, tp_size = case
    group = config.num_heads // config.num_kv_heads
    for rank in range(tp_size):
        first, last = sharding.even_range(config.num_heads, tp_size, rank)
        needed = {head // group for head in range(first, last)}
        assert needed == set(range(*sharding.kv_head_range(config.num_kv_heads, tp_size, rank)))


@given(sharded_models())
def test_memory_of_the_fullest_rank_never_rises_with_tp_size(
    case: tuple[ModelConfig, int],
) -> None:
    config, _ = case
    for sizes in (sharding.elements_per_rank, sharding.kv_elements_per_token):
        by_tp = [sizes(config, tp_size) for tp_size in sharding.allowed_tp_sizes(config)]
        assert by_tp == sorted(by_tp, reverse=True)


def test_tp_size_must_divide_heads_and_divide_or_replicate_kv_heads() -> None:
    config = model(heads=12, kv_heads=4)
    # 3 and 6 divide 12 heads, but neither divides 4 KV heads nor is a multiple of them
    assert sharding.allowed_tp_sizes(config) == [1, 2, 4, 12]
    with pytest.raises(InputError, match=r"tensor_parallel_size is 3 .* allowed: 1, 2, 4, 12"):
        sharding.check_tp_size(config, 3)


def test_elements_of_a_rank_by_hand() -> None:
    config = model(heads=8, kv_heads=2, head_dim=4, intermediate=24, vocab=50)
    # TP=4, rank 0. Layer: q 8x16, k and v one head 4x16 each, their biases 8+4+4, o 16x8, o bias
    # 16, q and k norms 4+4, two norms 32, gate and up 6x16 each, down 16x6
    layer = 128 + 64 + 64 + 16 + 128 + 16 + 8 + 32 + 96 + 96 + 96
    # embedding and head: the fullest rank has 13 of 50 rows; final norm 16
    assert sharding.elements_per_rank(config, 4) == 2 * layer + 2 * 13 * 16 + 16
    # K and V of one head of 4, in 2 layers
    assert sharding.kv_elements_per_token(config, 4) == 2 * 2 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
        ({"num_hidden_layers": None}, "no 'num_hidden_layers'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor is None"),
        ({"rope_theta": "big"}, "rope_theta is 'big'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the checkpoint is fp8"),
    ],
)
def test_a_config_that_cannot_be_run_names_its_field(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 100,
        "max_position_embeddings": 128,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert from_json(path).num_kv_heads == 4  # as many as heads where it is not said
    path.write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        from_json(path)
