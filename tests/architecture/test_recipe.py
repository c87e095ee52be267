"""The recipe of CONTRIBUTING.md, "Add a model family": one function, one line, one JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shardwise.architecture.fields import Fields
from shardwise.architecture.models import load
from shardwise.architecture.reading import registry
from shardwise.architecture.reading.attention import QkNorm, gqa_attention, heads_of
from shardwise.architecture.reading.common import decoder
from shardwise.architecture.reading.decoder import Decoder
from shardwise.architecture.reading.mlps import Experts, Shared, experts_of, gated_mlp, moe


def example(config: Fields) -> Decoder:
    """A family made of known parts: normed heads, a dense first layer, then experts."""
    heads = heads_of(config)
    attention = gqa_attention(heads, qk_norm=QkNorm())
    count, top_k = experts_of(config, "n_experts")
    width = config.size("expert_width")
    sparse = moe(heads.hidden, Experts(count, top_k, width), shared=Shared(width))
    dense = gated_mlp(heads.hidden, config.size("intermediate_size"))
    return decoder(config, lambda _: attention, lambda i: sparse if i else dense)


def test_a_family_is_one_function_one_line_and_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("example_family")
    module.__dict__["example"] = example
    monkeypatch.setitem(sys.modules, f"{registry.__name__.rpartition('.')[0]}.families.new", module)
    monkeypatch.setitem(registry.READERS, "example", "new:example")
    file = tmp_path / "example-1b.json"
    file.write_text(
        json.dumps(
            {
                "model_type": "example",
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "vocab_size": 100,
                "max_position_embeddings": 256,
                "n_experts": 8,
                "num_experts_per_tok": 2,
                "expert_width": 32,
                "quantization_config": {"quant_method": "fp8"},
            }
        )
    )
    model = load(str(file))
    attention = 4 * 64 * 64 + 2 * 16
    sparse = 8 * 64 + 9 * 3 * 64 * 32
    layers = 3 * (attention + 2 * 64) + 3 * 64 * 128 + 2 * sparse
    assert model.parameters() == layers + 64 + 2 * 100 * 64
    assert [group.layers for group in model.groups] == [(0,), (1, 2)]
    assert model.checkpoint_dtype == "fp8"
