"""Text models inside wrappers: where a multimodal config.json keeps the language model."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.registry import READERS
from shardwise.errors import InputError

#: Fields under which wrappers keep their text model, in the order in which they are looked for.
_TEXT: Final = (
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "text_model_config",
    "thinker_config",
    "talker_config",
    "decoder_config",
)
#: Wrappers whose inner config may leave out its model_type -> what it is then.
_DEFAULT_TYPES: Final = {
    "llava": "llama",
    "llava_next": "llama",
    "llava_next_video": "llama",
    "video_llava": "llama",
    "vipllava": "llama",
    "llava_onevision": "qwen2",
    "paligemma": "gemma",
    "mistral3": "mistral",
    "pixtral": "mistral",
    "deepseek_vl_v2": "deepseek_v2",
    "multi_modality": "llama",
    "idefics2": "mistral",
    "idefics3": "llama",
    "internvl": "qwen2",
    "aya_vision": "cohere2",
    "cohere2_vision": "cohere2",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "llama4": "llama4_text",
    "mllama": "mllama_text_model",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen2_5_omni_thinker": "qwen2",
    "qwen3_omni_moe_thinker": "qwen3_moe",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "kimi_k25": "kimi_k2",
    "kimi_vl": "deepseek_v3",
    "minimax_m3_vl": "minimax_m3",
}
#: What a text model has in common with its wrapper, where only the wrapper says it.
_SHARED: Final = (
    "quantization_config",
    "compression_config",
    "torch_dtype",
    "dtype",
    "tie_word_embeddings",
)


class Text(msgspec.Struct, frozen=True):
    """The fields of the text model, and of the whole file that it was found in."""

    config: Fields
    family: str
    whole: Fields


def text_of(config: Fields) -> Text:
    """The text model of `config`: itself, or what a wrapper holds.

    Raises InputError for a wrapper without text.
    """
    named = _BY_ARCHITECTURE.get(_first_architecture(config), "")
    family = named or config.text("model_type", "")
    if not family:
        family = _WITHOUT_TYPE.get(_first_architecture(config), "")
    found, where = config, config
    for _ in range(3):  # Omni models keep a thinker, and that its text
        name = next((n for n in _TEXT if isinstance(where.values.get(n), dict)), None)
        if name is None:
            break
        found = where.object(name)
        inner = found.text("model_type", "")
        family = inner or _DEFAULT_TYPES.get(family, family)
        where = found
    if found is config:
        if not family:
            raise config.bad("model_type", "the name of a model family")
        _refuse_without_text(config, family)
        return Text(config, family, config)
    return Text(_merged(found, config, family), family, config)


def _refuse_without_text(config: Fields, family: str) -> None:
    towers = [
        n for n in ("vision_config", "audio_config") if isinstance(config.values.get(n), dict)
    ]
    if towers and not config.has("hidden_size") and family not in READERS:
        raise InputError(
            f"{config.where}: {family[:60]!r} has {towers[0]} and no text model",
            f"a text model is looked for in {', '.join(_TEXT)}",
        )


#: Sizes that an inner config may leave out, since wrappers are saved without what is at its
#: default. Values: the configuration classes of transformers 5.
_CLASS_DEFAULTS: Final[dict[str, dict[str, int | bool]]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 8192,
    },
    "gemma2": {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "gemma3n_text": {
        "vocab_size": 262400,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 35,
        "max_position_embeddings": 32768,
    },
    "gemma4_text": {
        "vocab_size": 262144,
        "hidden_size": 2304,
        "num_hidden_layers": 30,
        "max_position_embeddings": 131072,
    },
    "llama4_text": {
        "vocab_size": 202048,
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 131072,
    },
    "qwen3_5_text": {
        "vocab_size": 248320,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
    },
    "qwen3_5_moe_text": {
        "vocab_size": 248320,
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "max_position_embeddings": 32768,
    },
}


def _merged(inner: Fields, outer: Fields, family: str) -> Fields:
    values: dict[str, Any] = {**_CLASS_DEFAULTS.get(family, {}), **inner.values}
    for name in _SHARED:
        if values.get(name) is None and outer.values.get(name) is not None:
            if name in ("torch_dtype", "dtype") and (
                values.get("torch_dtype") or values.get("dtype")
            ):
                continue
            values[name] = outer.values[name]
    names = outer.values.get("architectures") or inner.values.get("architectures")
    values["architectures"] = names
    return Fields(values, inner.where, inner.read)


#: Architectures whose files have the model_type of something else.
_BY_ARCHITECTURE: Final = {"Grok1ForCausalLM": "grok-1", "Grok1ModelForCausalLM": "grok-1"}
#: `architectures` of files that leave out model_type.
_WITHOUT_TYPE: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GptOssForCausalLM": "gpt_oss",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}


def _first_architecture(config: Fields) -> str:
    names = config.items("architectures", str)
    return str(names[0]) if names else ""
