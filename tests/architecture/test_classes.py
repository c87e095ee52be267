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
