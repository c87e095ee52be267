"""transformers' configuration classes at their defaults: as many weights as transformers builds.

classes.json is written by count_classes.py (transformers 5.23).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shardwise.architecture.reading.parse import parse
from shardwise.architecture.reading.registry import OTHER_KINDS, READERS
from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards

CLASSES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "classes.json").read_text(encoding="utf-8")
)
#: Not comparable: what transformers counts, and why.
NOT_COMPARABLE = {
    "longcat_flash": "experts without weights count; published: 562 billion",
    "ernie4_5_vl_moe": "experts for images are named like a tower",
    "inkling_mm_model": "its text model is named like a tower",
    "video_llava": "its tower is named like text",
    "granite_speech": "its encoder is named like text",
    "granite_speech_plus": "its encoder is named like text",
    "vibevoice_asr": "its encoder is named like text",
    "glm_ocr": "its tower counts as text",
    "nemo_speechlm": "its encoder is named like text",
    "blip-2": "its query tokens count as text",
    "instructblip": "its query tokens count as text",
    "instructblipvideo": "its query tokens count as text",
    "minicpm_ocr": "its merger counts as text",
    "minicpmv4_6": "its merger counts as text",
    "minicpmv4_7": "its merger counts as text",
}
#: Classes whose defaults are no complete model: refused, with the field.
REFUSED = {
    "glm4_moe": "head_dim",
    "glm4v_moe": "head_dim",
    "qwen3_omni_moe_thinker": "head_dim",
    "deepseek_v2": "num_experts_per_tok",
}


@cache
def counted(name: str) -> tuple[int, int]:
    model = parse({"model_type": name, **CLASSES[name]["config"]}, name)
    return model.parameters(), model.parameters("experts")


def supported() -> list[str]:
    found = []
    for name, known in CLASSES.items():
        text = known["config"].get("text_config") or {}
        kind = text.get("model_type", name)
        if {name, kind} & set(READERS) and name not in {*NOT_COMPARABLE, *REFUSED, *OTHER_KINDS}:
            found.append(name)
    return found


def test_most_classes_are_supported() -> None:
    assert len(supported()) >= 180


@pytest.mark.parametrize("name", supported())
def test_a_class_has_the_weights_that_transformers_builds(name: str) -> None:
    parameters, experts = counted(name)
    assert parameters == pytest.approx(CLASSES[name]["parameters"], rel=1e-3)
    if CLASSES[name]["experts"] and name != "jetmoe":  # its attention has experts too
        assert experts == pytest.approx(CLASSES[name]["experts"], rel=2e-2)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("mamba2", "n_groups"), ("openai-gpt", "n_positions"), ("hy_v4", "indexer_types")],
)
def test_a_field_that_is_left_out_has_the_default_of_its_class(name: str, left_out: str) -> None:
    given = {**CLASSES[name]["config"], "model_type": name}
    assert left_out in given
    without = {field: value for field, value in given.items() if field != left_out}
    assert parse(without, name).parameters() == parse(given, name).parameters()


@pytest.mark.parametrize("name", REFUSED)
def test_defaults_that_are_no_model_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]):
        parse({"model_type": name, **CLASSES[name]["config"]}, name)


@pytest.mark.parametrize("name", sorted(set(CLASSES) & set(OTHER_KINDS)))
def test_what_is_no_decoder_is_named(name: str) -> None:
    with pytest.raises(InputError, match="decoder-only"):
        parse({"model_type": name, **CLASSES[name]["config"]}, name)


OURO = {
    "model_type": "ouro",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 49152,
    "max_position_embeddings": 65536,
    "total_ut_steps": 4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_layers_that_run_again_are_stored_once_and_cached_each_time() -> None:
    """Ouro-2.6B: 2,667,974,657 weights by its model card; 48 layers run four times."""
    model = parse(OURO, "ouro-2.6b")
    assert model.parameters() == 2_667_974_657
    assert model.num_layers == 4 * 48
    rank = rank_shards(model, Layout())
    assert rank.weight_bytes == pytest.approx(2 * 2_667_974_657, rel=1e-3)
    # 16 heads of 128, keys and values, two bytes, in each of the 192 runs
    assert rank.cache_bytes(1.0, "bf16")[0] == 192 * 2 * 16 * 128 * 2
    # a run reads its weights again
    assert sum(layer.group.count * sum(g.bytes for g in layer.gemms) for layer in rank.layers) > (
        3.9 * 2 * 48 * 51_000_000
    )


def test_zambas_block_is_stored_once_and_its_caches_are_not() -> None:
    model = parse(CLASSES["zamba"]["config"] | {"model_type": "zamba"}, "zamba")
    kept = [c for g in model.groups for c in g.mixer.caches if c.name == "kv"]
    counts = [g.count for g in model.groups if any(c.name == "kv" for c in g.mixer.caches)]
    assert len(kept) == 2  # where the block is stored, and where it is used again
    assert sum(counts) == 13


def test_a_jais_model_has_gated_mlps_and_no_positions() -> None:
    config = {
        "model_type": "jais",
        "n_embd": 5120,
        "n_head": 40,
        "n_layer": 40,
        "n_inner": 13653,
        "vocab_size": 84992,
        "n_positions": 2048,
        "position_embedding_type": "alibi",
        "activation_function": "swiglu",
    }
    layer = 4 * 5120**2 + 3 * 5120 * 13653 + 3 * 5120 + 5120 + 2 * 13653 + 5120 + 4 * 5120
    assert parse(config, "jais-13b").parameters() == 40 * layer + 84992 * 5120 + 2 * 5120


@pytest.mark.parametrize("name", supported())
def test_ranks_of_a_class_hold_the_model_and_no_more_with_tp(name: str) -> None:
    model = parse({"model_type": name, **CLASSES[name]["config"]}, name)
    whole = model.weight_bytes + sum(tower.bytes for tower in model.towers)
    held = [rank_shards(model, Layout(tp)).weight_bytes for tp in (1, 2, 4, 8)]
    assert held[0] == pytest.approx(whole, rel=2e-3)
    assert held == sorted(held, reverse=True)
    assert 8 * held[-1] >= 0.999 * whole
    caches = [rank_shards(model, Layout(tp)).cache_bytes(4096.0, "bf16")[0] for tp in (1, 8)]
    assert caches[0] >= caches[1] > 0


#: Zamba2-7B as released (transformers 4.43.0.dev0).
ZAMBA2 = {
    "model_type": "zamba2",
    "add_bias_linear": False,
    "conv_dimension": 4,
    "expansion_factor": 2,
    "ffn_hidden_size": 14336,
    "hidden_size": 3584,
    "layers_block_type": [
        "hybrid" if i in {6, 11, *range(17, 78, 6)} else "mamba" for i in range(81)
    ],
    "lora_rank": 128,
    "mamba_headdim": 64,
    "mamba_ngroups": 2,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 81,
    "num_key_value_heads": 32,
    "num_mem_blocks": 2,
    "state_size": 64,
    "torch_dtype": "bfloat16",
    "use_shared_attention_lora": False,
    "use_shared_block_lora": True,
    "vocab_size": 32000,
}


def test_zamba2_as_released_is_the_same_model_under_its_present_names() -> None:
    named = {
        "conv_dimension": "mamba_d_conv",
        "expansion_factor": "mamba_expand",
        "ffn_hidden_size": "intermediate_size",
        "lora_rank": "adapter_rank",
        "state_size": "mamba_d_state",
        "use_shared_attention_lora": "use_shared_attention_adapter",
    }
    present = {named.get(name, name): value for name, value in ZAMBA2.items()}
    del present["mamba_headdim"]
    present["n_mamba_heads"] = 112
    assert parse(ZAMBA2, "old").parameters() == parse(present, "new").parameters()


def test_zamba2_refuses_heads_that_do_not_divide_its_state() -> None:
    with pytest.raises(InputError, match="mamba_headdim"):
        parse({**ZAMBA2, "mamba_headdim": 60}, "zamba2")


def test_nanbeige_runs_its_layers_twice() -> None:
    """Nanbeige4.2-3B: 3.15 billion weights beside the embeddings, and 44 caches."""
    model = parse(NANBEIGE, "nanbeige4.2-3b")
    layer = 2 * 3072 * 6144 + 2 * 3072 * 1024 + 3 * 3072 * 10752 + 2 * 3072
    assert model.parameters() == 2 * 166144 * 3072 + 22 * layer + 3072
    assert model.num_layers == 44


@pytest.mark.parametrize("name", ["enable_mhc", "emb_neighbor_num", "qk_layernorm"])
def test_nanbeige_refuses_what_it_does_not_read(name: str) -> None:
    with pytest.raises(InputError, match=name):
        parse({**NANBEIGE, name: 2 if name.startswith("emb") else True}, "nanbeige")


NANBEIGE = {
    "model_type": "nanbeige",
    "hidden_size": 3072,
    "intermediate_size": 10752,
    "num_hidden_layers": 22,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 166144,
    "max_position_embeddings": 262144,
    "attention_bias": False,
    "num_loops": 2,
    "loop_loss_weights": [],
    "skip_loop_final_norm": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
#: The published files of Sarvam, what no size depends on left out.
SARVAM = {
    "first_k_dense_replace": 1,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "moe_router_enable_expert_bias": True,
    "num_attention_heads": 64,
    "num_experts": 128,
    "num_shared_experts": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 262144,
}
SARVAM_30B = {
    **SARVAM,
    "model_type": "sarvam_moe",
    "head_dim": 64,
    "intermediate_size": 8192,
    "moe_intermediate_size": 1024,
    "moe_shared_expert_intermediate_size": 1024,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 19,
    "num_key_value_heads": 4,
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
}
SARVAM_105B = {
    **SARVAM,
    "model_type": "sarvam_mla",
    "head_dim": 576,
    "q_head_dim": 192,
    "intermediate_size": 16384,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 32,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def test_sarvam_has_its_published_sizes() -> None:
    """106 and 32.2 billion weights; 10.3 and 2.4 billion a token without embeddings."""
    small, large = parse(SARVAM_30B, "sarvam-30b"), parse(SARVAM_105B, "sarvam-105b")
    assert small.parameters() == pytest.approx(32.15e9, rel=1e-3)
    assert large.parameters() == pytest.approx(106.0e9, rel=1e-3)
    embeddings = 2 * 262144 * 4096
    assert large.active_parameters - embeddings == pytest.approx(10.3e9, rel=1e-2)
    assert small.active_parameters - embeddings == pytest.approx(2.4e9, rel=2e-2)


@pytest.mark.parametrize("name", ["first_k_dense_replace", "num_shared_experts", "use_qk_norm"])
def test_sarvam_is_refused_without_what_its_class_presumes(name: str) -> None:
    with pytest.raises(InputError, match=name):
        parse({k: v for k, v in SARVAM_30B.items() if k != name}, "sarvam")


def test_the_first_files_of_minimax_m2_are_read_as_m2() -> None:
    config = {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "attn_type_list": [1, 1],
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 196608,
        "num_attention_heads": 2,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 8,
        "qk_norm_type": "per_layer",
        "rotary_dim": 16,
        "shared_intermediate_size": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_qk_norm": True,
        "vocab_size": 1000,
    }
    first, present = (
        parse({**config, "model_type": name}, name) for name in ("minimax", "minimax_m2")
    )
    assert first.parameters() == present.parameters()
