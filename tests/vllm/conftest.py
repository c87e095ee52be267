"""Real vLLM on CPU, in an environment of its own: `make test-vllm`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of vLLM's environment."""
    python = os.environ.get("VLLM_PYTHON", "")
    if not python or not Path(python).exists():
        pytest.skip("VLLM_PYTHON names no interpreter; run: make test-vllm")
    return python


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a tokenizer of one word a token, and no weights, for
    `--load-format dummy`."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    words = {f"w{i}": i for i in range(int(str(CONFIG["vocab_size"])))}
    parts = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | dict.fromkeys(parts)))
    special = {"unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind | special))
    return folder
