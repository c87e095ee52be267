"""CONTRIBUTING.md, "Add a model family", step by step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shardwise.architecture.fields import Fields
from shardwise.architecture.models import load
from shardwise.architecture.reading import registry
from shardwise.architecture.reading.attention import Projections, gqa_attention, heads_of
from shardwise.architecture.reading.common import uniform
from shardwise.architecture.reading.decoder import Decoder
from shardwise.architecture.reading.mlps import gated_mlp
from shardwise.errors import InputError

HIDDEN, INNER, LAYERS, VOCABULARY = 64, 160, 3, 1000
CONFIG = {
    "model_type": "toy",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "qkv_bias": True,
    "tie_word_embeddings": False,
}


def toy(config: Fields) -> Decoder:
    """Llama with a bias on q, k and v where the configuration says so."""
    heads = heads_of(config)
    attention = gqa_attention(heads, Projections(bias=config.flag("qkv_bias", False)))
    return uniform(config, attention, gated_mlp(heads.hidden, config.size("intermediate_size")))


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two steps: a function in a module of `families`, and its name among the readers."""
    module = ModuleType("toy")
    module.toy = toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shardwise.architecture.reading.families.toy", module)
    monkeypatch.setitem(registry.READERS, "toy", "toy:toy")


def written(folder: Path, **more: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **more}), "utf-8")
    return str(path)


@pytest.mark.usefixtures("family")
def test_a_new_family_is_one_function(tmp_path: Path) -> None:
    head_size = HIDDEN // 8
    qkv = (8 + 2 + 2) * head_size
    layer = HIDDEN * qkv + qkv + 8 * head_size * HIDDEN + 3 * HIDDEN * INNER + 2 * HIDDEN
    expected = 2 * VOCABULARY * HIDDEN + LAYERS * layer + HIDDEN
    assert load(written(tmp_path)).parameters() == expected


@pytest.mark.usefixtures("family")
def test_a_field_that_the_function_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_experts"):
        load(written(tmp_path, num_experts=8))


def test_without_the_recipe_the_family_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy"):
        load(written(tmp_path))
