"""Small random models of each family, written by transformers, and ranks to run them on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,  # divisible by neither 2 nor 4: ranks hold 32 or 33 rows
    "max_position_embeddings": 256,
}
EXPERTS = {"num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "Mistral": {"sliding_window": None},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 32},
    "Mixtral": EXPERTS | {"num_local_experts": 4},
    "Qwen3Moe": EXPERTS | {"num_experts": 4, "moe_intermediate_size": 48, "norm_topk_prob": True},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """family -> directory with config.json and model.safetensors."""
    torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
    transformers = pytest.importorskip("transformers", reason="needs: pip install transformers")
    root = tmp_path_factory.mktemp("models")
    for family, extra in FAMILIES.items():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**(SIZES | extra))
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # wider than the default, so that greedy text varies
            around = 0.0 if parameter.dim() > 1 else 1.0
            torch.nn.init.normal_(parameter, around, 0.08)
        model.save_pretrained(root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def llama(models: dict[str, Path]) -> Path:
    return models["Llama"]


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Running rank processes, one torch thread each."""
    pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
    from shardwise.engine.rank import GroupSpec
    from shardwise.engine.ranks import RankGroup

    group = RankGroup(GroupSpec(request.param, threads_per_rank=1))
    yield group
    group.close()
