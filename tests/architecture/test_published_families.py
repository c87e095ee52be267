"""Published config files of families that transformers does not build, and counts by hand."""

from __future__ import annotations

from typing import Any, Final

import pytest

from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards

RWKV_VOCAB: Final = 65536


def rwkv(kind: str, layers: int, hidden: int, **more: Any) -> dict[str, Any]:
    """The published file: sizes of the MLP are left to the class."""
    return {
        "model_type": kind,
        "architectures": ["RwkvForCausalLM"],
        "hidden_size": hidden,
        "attention_hidden_size": hidden,
        "num_hidden_layers": layers,
        "head_size": 64,
        "intermediate_size": None,
        "vocab_size": RWKV_VOCAB,
        "context_length": 4096,
        "tie_word_embeddings": False,
        **more,
    }


@pytest.mark.parametrize(("layers", "hidden"), [(24, 1024), (24, 2048), (32, 2560), (32, 4096)])
def test_rwkv5_has_the_parameters_of_its_paper(layers: int, hidden: int) -> None:
    """arXiv:2404.05892, appendix: 13 D^2 L + 14 D L + 4 D + 2 D V."""
    paper = 13 * hidden**2 * layers + 14 * hidden * layers + 4 * hidden + 2 * hidden * RWKV_VOCAB
    assert parse(rwkv("rwkv5", layers, hidden), "eagle").parameters() == paper


@pytest.mark.parametrize(("layers", "hidden"), [(24, 2048), (32, 2560)])
def test_rwkv6_has_the_parameters_of_its_paper(layers: int, hidden: int) -> None:
    """arXiv:2404.05892, appendix: 13 D^2 L + 464 D L + 4 D + 2 D V."""
    paper = 13 * hidden**2 * layers + 464 * hidden * layers + 4 * hidden + 2 * hidden * RWKV_VOCAB
    assert parse(rwkv("rwkv6", layers, hidden), "finch").parameters() == paper


#: (layers, width, ranks of decay, learning rate, gate and value) -> arXiv:2503.14456, table of
#: the World models.
GOOSE: Final = {
    (12, 768, 64, 64, 128, 32): 191_034_624,
    (24, 1024, 64, 64, 128, 32): 450_767_872,
    (24, 2048, 96, 96, 256, 64): 1_527_404_544,
    (32, 2560, 96, 96, 320, 64): 2_947_735_040,
}


def goose(layers: int, hidden: int, decay: int, rate: int, gate: int, value: int) -> dict[str, Any]:
    return {
        "model_type": "rwkv7",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 4 * hidden,
        "head_dim": 64,
        "decay_low_rank_dim": decay,
        "a_low_rank_dim": rate,
        "gate_low_rank_dim": gate,
        "v_low_rank_dim": value,
        "vocab_size": RWKV_VOCAB,
    }


@pytest.mark.parametrize(("sizes", "published"), GOOSE.items())
def test_rwkv7_has_the_published_parameters(sizes: tuple[int, ...], published: int) -> None:
    assert parse(goose(*sizes), "goose").parameters() == published


def test_rwkv7_under_the_names_of_its_other_files_is_the_same_model() -> None:
    values = goose(12, 768, 64, 64, 128, 32)
    renamed = {
        "head_dim": "head_size",
        "decay_low_rank_dim": "decay_lora_rank",
        "a_low_rank_dim": "in_context_learning_lora_rank",
        "gate_low_rank_dim": "gate_lora_rank",
        "v_low_rank_dim": "value_lora_rank",
    }
    other = {renamed.get(name, name): value for name, value in values.items()}
    assert parse(other, "goose").parameters() == 191_034_624


def test_rwkv7_without_its_ranks_or_with_attention_layers_is_refused() -> None:
    values = goose(12, 768, 64, 64, 128, 32)
    with pytest.raises(InputError, match="decay_low_rank_dim"):
        parse({k: v for k, v in values.items() if k != "decay_low_rank_dim"}, "goose")
    with pytest.raises(InputError, match="attn"):
        parse({**values, "attn": {"layers": [3]}}, "goose")


def test_a_state_does_not_grow_with_the_sequence() -> None:
    """2560 / 64 heads, a 64 x 64 matrix of 32 bits each, and two tokens' inputs."""
    model = parse(rwkv("rwkv5", 32, 2560), "eagle")
    shard = rank_shards(model, Layout())
    assert shard.cache_bytes(1.0, "bf16")[0] == shard.cache_bytes(4096.0, "bf16")[0]
    assert shard.cache_bytes(1.0, "bf16")[0] == 32 * (40 * 64 * 64 * 4 + 2 * 2560 * 2)


PLAMO_2_1B: Final = {
    "model_type": "plamo2",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 1,
    "hidden_size_per_head": 128,
    "intermediate_size": 8192,
    "mamba_d_conv": 4,
    "mamba_d_state": 64,
    "mamba_enabled": True,
    "mamba_num_heads": 32,
    "mamba_step": 2,
    "max_position_embeddings": 10485760,
    "attention_window_size": 2048,
    "vocab_size": 100000,
}


def kinds(model: Model) -> list[str]:
    placed = {i: type(g.mixer).__name__ for g in model.groups for i in g.layers}
    return [placed[i] for i in range(model.num_layers)]


def test_plamo_2_alternates_between_mamba_and_attention() -> None:
    model = parse(PLAMO_2_1B, "plamo-2-1b")
    inner, rank = 32 * 128, 128
    mamba = (
        2 * 2048 * inner + 4 * inner + (rank + 2 * 64) * inner + 32 * rank + 3 * 32
        + rank + 2 * 64 + 2048 * inner
    )  # fmt: skip
    attention = 2 * 2048 * 2048 + 2 * 2048 * 128 + 2048 + 128
    shared = 3 * 2048 * 8192 + 4 * 2048
    assert model.parameters() == 8 * (mamba + attention + 2 * shared) + 100000 * 2048 + 2048
    assert model.parameters() == 1_291_441_920  # the size on the hub
    assert kinds(model) == ["Mamba2", "Attention"] * 8


def test_plamo_3_slides_in_seven_layers_of_eight() -> None:
    values = {
        "model_type": "plamo3",
        "hidden_size": 64,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 100,
        "max_position_embeddings": 4096,
        "window_size": 2048,
        "sliding_window_pattern": 8,
    }
    model = parse(values, "tiny")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 16 + 3 * 64 * 128 + 4 * 64
    assert model.parameters() == 8 * layer + 100 * 64 + 64
    window = {i: g.mixer.caches[0].window for g in model.groups for i in g.layers}
    assert [window[i] for i in range(8)] == [2048] * 7 + [0]


def test_plamo_13b_shares_a_kv_head_between_eight_queries_and_has_one_norm_a_layer() -> None:
    values = {
        "architectures": ["PlamoForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 16640,
        "max_position_embeddings": 4096,
        "model_type": "plamo",
        "n_shared_head": 8,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 50432,
    }
    layer = 2 * 5120**2 + 2 * 5120 * 5 * 128 + 3 * 5120 * 16640 + 5120
    model = parse(values, "plamo-13b")
    assert model.parameters() == 40 * layer + 2 * 50432 * 5120 + 5120
    assert model.groups[0].mixer.caches[0].elements == 2 * 5 * 128


PANGU_7B: Final = {
    "architectures": ["PanguEmbeddedForCausalLM"],
    "model_type": "PanguEmbedded",
    "bias": True,
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 34,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 153376,
}


def test_open_pangu_7b_has_biases_on_all_of_attention() -> None:
    biases = 4096 + 2 * 1024 + 4096
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + biases + 3 * 4096 * 12800 + 2 * 4096
    expected = 34 * layer + 2 * 153376 * 4096 + 4096
    assert parse(PANGU_7B, "pangu").parameters() == expected


PANGU_ULTRA: Final = {
    "model_type": "pangu_ultra_moe",
    "hidden_size": 7680,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "sandwich_norm": True,
    "vocab_size": 153600,
    "max_position_embeddings": 131072,
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
}


def test_open_pangu_ultra_is_deepseeks_layer_with_two_more_norms() -> None:
    """The name says 718 billion."""
    model = parse(PANGU_ULTRA, "pangu-ultra")
    attention = (
        7680 * 1536 + 1536 + 1536 * 128 * 192 + 7680 * 576 + 512 + 512 * 128 * 256 + 128**2 * 7680
    )
    expert = 3 * 7680 * 2048
    sparse = 257 * expert + 256 * 7680
    expected = 61 * (attention + 4 * 7680) + 3 * 3 * 7680 * 18432 + 58 * sparse
    assert model.parameters() == expected + 2 * 153600 * 7680 + 7680
    assert model.parameters() == pytest.approx(718e9, rel=2e-3)
    assert len(model.drafts) == 1


def test_learned_sinks_are_tensors_of_open_pangu_and_not_a_cache() -> None:
    values = {
        "model_type": "PanguProMoE", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "qk_nope_dim": 12, "qk_rope_dim": 4, "v_channels": 8, "param_sink_number": 6,
        "param_sink_with_value": True, "vocab_size": 100, "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }  # fmt: skip
    attention = 64 * 64 + 64 * 32 + 64 * 16 + 32 * 64 + 16 + 6 * 2 * (16 + 8)
    layer = attention + 3 * 64 * 128 + 2 * 64
    model = parse(values, "tiny")
    assert model.parameters() == 2 * layer + 2 * 100 * 64 + 64
    assert [c.elements for c in model.groups[0].mixer.caches] == [2 * (16 + 8)]


def test_open_pangu_2_is_refused_by_the_field_that_tells_it() -> None:
    with pytest.raises(InputError, match="use_mome"):
        parse({**PANGU_ULTRA, "use_mome": True}, "pangu-2")


def test_telechat_2_has_biases_on_output_projections_and_a_tied_head() -> None:
    values = {
        "model_type": "telechat",
        "architectures": ["TelechatForCausalLM"],
        "hidden_size": 4096,
        "n_layer": 30,
        "n_head": 32,
        "num_key_value_heads": 32,
        "ffn_hidden_size": 12288,
        "vocab_size": 131072,
        "seq_length": 8192,
        "torch_dtype": "bfloat16",
    }
    layer = 4 * 4096**2 + 4096 + 3 * 4096 * 12288 + 4096 + 2 * 4096
    model = parse(values, "telechat2-7b")
    assert model.parameters() == 30 * layer + 131072 * 4096 + 4096
    assert model.max_context == 8192


def test_minicpm_with_experts_has_them_in_every_layer() -> None:
    """MiniCPM-MoE-8x2B: 13.6 billion weights without the embedding."""
    values = {
        "architectures": ["MiniCPMForCausalLM"],
        "hidden_size": 2304,
        "intermediate_size": 5760,
        "max_position_embeddings": 4096,
        "model_type": "minicpm",
        "num_attention_heads": 36,
        "num_hidden_layers": 40,
        "num_key_value_heads": 36,
        "tie_word_embeddings": True,
        "vocab_size": 122753,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    }
    layer = 4 * 2304**2 + 8 * 2304 + 8 * 3 * 2304 * 5760 + 2 * 2304
    model = parse(values, "minicpm-moe")
    assert model.parameters() == 40 * layer + 122753 * 2304 + 2304
    assert model.parameters() - model.embedding.parameters == pytest.approx(13.6e9, rel=2e-3)


LOOP_CODER: Final = {
    "model_type": "iquestloopcoder",
    "architectures": ["IQuestLoopCoderForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 80,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 76800,
    "max_position_embeddings": 131072,
    "loop_num": 2,
    "loop_window_size": 64,
    "tie_word_embeddings": False,
}


def test_loop_coder_runs_its_layers_twice_and_keeps_the_whole_cache_once() -> None:
    model = parse(LOOP_CODER, "loop")
    layer = 2 * 5120**2 + 2 * 5120 * 1024 + 3 * 5120 * 27648 + 2 * 5120 + 40 * 128 + 40
    assert model.parameters() == 80 * layer + 2 * 76800 * 5120 + 5120
    assert model.num_layers == 160
    shard = rank_shards(model, Layout())
    grown = shard.cache_bytes(2000.0, "bf16")[0] - shard.cache_bytes(1000.0, "bf16")[0]
    assert grown == 1000 * 80 * 2 * 8 * 128 * 2


def test_param2_counts_its_shared_experts_once() -> None:
    """moe_shared_expert_intermediate_size is already the size of both shared experts."""
    values = {
        "model_type": "param2moe", "hidden_size": 64, "intermediate_size": 256,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 2,
        "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 64,
        "first_k_dense_replace": 1, "use_qk_norm": True, "vocab_size": 100,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    attention = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 16
    sparse = 8 * 64 + 8 + 8 * 3 * 64 * 32 + 3 * 64 * 64
    layers = 3 * (attention + 2 * 64) + 3 * 64 * 256 + 2 * sparse
    assert parse(values, "tiny").parameters() == layers + 2 * 100 * 64 + 64


#: Step-3.7-Flash as some tools store it: without its wrapper.
STEP_FLAT: Final = {
    "architectures": ["Step3p7FlashForCausalLM"],
    "model_type": "step3p7",
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128896,
    "max_position_embeddings": 65536,
    "sliding_window": 512,
    "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 11 + ["full_attention"],
    "first_k_dense_replace": 3,
    "num_experts": 288,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1280,
    "share_expert_dim": 1280,
    "n_shared_experts": 1,
    "use_moe_router_bias": True,
    "num_nextn_predict_layers": 3,
    "torch_dtype": "bfloat16",
}


def test_step_without_its_wrapper_is_read() -> None:
    model = parse(STEP_FLAT, "step")
    attention = 2 * 4096 * 8192 + 2 * 4096 * 1024 + 2 * 128 + 4096 * 64 + 2 * 4096
    sparse = 288 * 4096 + 288 + 289 * 3 * 4096 * 1280
    expected = 45 * attention + 3 * 3 * 4096 * 11264 + 42 * sparse
    assert model.parameters() == expected + 2 * 128896 * 4096 + 4096
    assert model.parameters("experts") == 42 * 288 * 3 * 4096 * 1280


GROK_2: Final = {
    "architectures": ["Grok1ForCausalLM"],
    "model_type": "git",
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "moe_intermediate_size": 16384,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "residual_moe": True,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 64,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_grok_2_has_a_head_of_its_own_and_an_mlp_beside_the_experts() -> None:
    """xai-org/grok-2: 270 billion weights."""
    model = parse(GROK_2, "grok-2")
    attention = 2 * 8192**2 + 2 * 8192 * 1024
    layer = attention + 8 * 8192 + 8 * 3 * 8192 * 16384 + 3 * 8192 * 32768 + 4 * 8192
    assert model.parameters() == 64 * layer + 2 * 131072 * 8192 + 8192
    assert model.parameters() == pytest.approx(270e9, rel=2e-3)
    assert not model.tie_embeddings


DEEPSEEK_OCR: Final = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "first_k_dense_replace": 1,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "kv_lora_rank": None,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 896,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 10,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 12,
    "num_key_value_heads": 10,
    "q_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "use_mla": False,
    "v_head_dim": 0,
    "vocab_size": 129280,
    "torch_dtype": "bfloat16",
}


def test_deepseek_ocr_has_plain_attention_and_a_named_encoder() -> None:
    """deepseek-ai/DeepSeek-OCR: 3.34 billion weights, 2.6 million of them in the projector."""
    whole = {
        "architectures": ["DeepseekOCRForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "language_config": DEEPSEEK_OCR,
        "projector_config": {"input_dim": 2048, "n_embed": 1280, "projector_type": "linear"},
        "vision_config": {"image_size": 1024, "model_name": "deeplip_b_l", "model_type": "vision"},
        "vocab_size": 129280,
    }
    model = parse(whole, "deepseek-ocr")
    expert = 3 * 1280 * 896
    layers = 12 * (4 * 1280**2 + 2 * 1280) + 3 * 1280 * 6848 + 11 * (66 * expert + 64 * 1280)
    assert model.parameters() == layers + 2 * 129280 * 1280 + 1280
    total = model.parameters() + sum(tower.parameters for tower in model.towers)
    assert total + 2048 * 1280 + 1280 == pytest.approx(3.34e9, rel=2e-3)
    assert model.groups[0].mixer.caches[0].elements == 2 * 1280


FILES: Final = {
    "rwkv5": rwkv("rwkv5", 32, 2560),
    "rwkv6": rwkv("rwkv6", 24, 2048),
    "rwkv7": goose(24, 2048, 96, 96, 256, 64),
    "plamo2": PLAMO_2_1B,
    "pangu": PANGU_7B,
    "pangu_ultra": PANGU_ULTRA,
    "loop_coder": LOOP_CODER,
    "step": STEP_FLAT,
    "grok_2": GROK_2,
    "deepseek_ocr": {**DEEPSEEK_OCR, "model_type": "deepseek_v2"},
}


@pytest.mark.parametrize("name", FILES)
def test_ranks_hold_the_model_and_no_more_with_tp(name: str) -> None:
    model = parse(FILES[name], name)
    ranks = [rank_shards(model, Layout(tp)) for tp in (1, 2, 4, 8)]
    held = [rank.weight_bytes for rank in ranks]
    assert held[0] == pytest.approx(model.weight_bytes, rel=2e-3)
    assert held == sorted(held, reverse=True)
    assert 8 * held[-1] >= 0.999 * model.weight_bytes
    caches = [rank.cache_bytes(4096.0, "bf16")[0] for rank in ranks]
    assert caches == sorted(caches, reverse=True)
    assert caches[-1] > 0
