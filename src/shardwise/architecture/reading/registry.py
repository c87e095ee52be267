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
    "qwen2_vl": "llama:qwen2",
    "qwen2_vl_text": "llama:qwen2",
    "qwen2_5_vl": "llama:qwen2",
    "qwen2_5_vl_text": "llama:qwen2",
    "qwen2_5_omni_text": "llama:qwen2",
    "qwen3_vl_text": "llama:qwen3",
    "qwen3_vl_moe_text": "llama:qwen3_moe",
    "qwen3_omni_moe_text": "llama:qwen3_moe",
    "qwen3_next": "qwen_next:qwen3_next",
    "qwen3_5_text": "qwen_next:qwen3_5",
    "qwen3_5_moe_text": "qwen_next:qwen3_5_moe",
    "llava": "llama:llama",
    "llava_llama": "llama:llama",
    "llama4_text": "llama4:llama4",
    "mllama_text_model": "llama4:mllama",
    "deepseek_v4": "deepseek_v4:deepseek_v4",
    "deepseek_ref": "deepseek_v4:deepseek_v4",
    "glm": "glm:glm",
    "glm4": "glm:glm4",
    "glm4v_text": "glm:glm4",
    "glm4_moe": "glm:glm4_moe",
    "glm4v_moe_text": "glm:glm4_moe",
    "glm4_moe_lite": "glm:glm4_moe_lite",
    "glm_moe_dsa": "glm:glm_moe_dsa",
    "chatglm": "glm:chatglm",
    "gemma": "gemma:gemma",
    "gemma2": "gemma:gemma2",
    "gemma3_text": "gemma:gemma3",
    "gemma3n_text": "gemma:gemma3n",
    "gemma4_text": "gemma:gemma4",
    "minimax": "minimax:minimax",
    "minimax_text_01": "minimax:minimax",
    "minimax_m1": "minimax:minimax",
    "minimax_m2": "minimax:minimax_m2",
    "minimax_m3": "minimax:minimax_m3",
    "minimax_m3_vl_text": "minimax:minimax_m3",
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
