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
