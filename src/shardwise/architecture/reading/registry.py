"""Which function reads which `model_type`. Functions are imported when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.decoder import Decoder
from shardwise.errors import InputError

_FAMILIES: Final = "shardwise.architecture.reading.families"
#: model_type -> module and function below `families`.
READERS: Final = {
    "llama": "llama:llama",
    "mistral": "llama:mistral",
    "ministral3": "llama:mistral",
    "mixtral": "llama:mixtral",
    "qwen2": "llama:qwen2",
    "qwen2_moe": "llama:qwen2_moe",
    "qwen3": "llama:qwen3",
    "qwen3_moe": "llama:qwen3_moe",
    "gpt_oss": "llama:gpt_oss",
    "deepseek": "deepseek:deepseek",
    "deepseek_v2": "deepseek:deepseek_v2",
    "deepseek_v3": "deepseek:deepseek_v3",
    "deepseek_v32": "deepseek:deepseek_v32",
    "kimi_k2": "deepseek:deepseek_v3",
}


def reader(model_type: str, where: str) -> Callable[[Fields], Decoder]:
    """The function that reads `model_type`. Raises InputError for one that has none."""
    name = READERS.get(model_type)
    if name is None:
        raise InputError(
            f"{where}: model_type {model_type[:60]!r} is not understood",
            f"supported: {', '.join(sorted(READERS))}",
            "a new family is one function: see 'Add a model family' in CONTRIBUTING.md",
        )
    module, _, function = name.partition(":")
    found: Callable[[Fields], Decoder] = getattr(import_module(f"{_FAMILIES}.{module}"), function)
    return found
