"""Find the language model in a multimodal config.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from shardwise.architecture.fields import Fields
from shardwise.architecture.reading.registry import OTHER_KINDS, READERS
from shardwise.errors import InputError

_DEFAULTS: Final = Path(__file__).parents[1] / "data" / "_class_defaults.json"
#: Fields in which wrappers store their text model, in search order.
_TEXT: Final = (
    "text_config",
    "llm_config",
    "llm_cfg",
    "language_config",
    "language_model_config",
    "text_model_config",
    "thinker_config",
    "talker_config",
    "decoder_config",
)
#: Wrappers whose inner config may have no model_type -> its default.
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
    "glm46v": "glm4",
    "glmga": "glm4",
    "glm_ocr": "glm_ocr_text",
    "glm5_next": "glm5_next_text",
    "aria": "aria_text",
    "qwen2_audio": "qwen2",
    "qwen3_asr": "qwen3",
    "qwen4_exp": "qwen4_exp_text",
    "gemma4_unified": "gemma4_unified_text",
    "shieldgemma2": "gemma3_text",
    "mistral4": "mistral4",
    "mistral_large4": "mistral_large4_text",
    "voxtral": "llama",
    "voxtral_realtime": "voxtral_realtime_text",
    "inkling_mm_model": "inkling_text",
    "inkling2": "inkling2_text",
    "muse_glimmer": "muse_glimmer_text",
    "muse_spark": "muse_spark_text",
    "exaone4_5": "exaone4",
    "cohere_compass": "cohere_compass_text",
    "cosmos3_omni": "qwen3",
    "cosmos3_edge": "cosmos3_edge_text",
    "lfm2_vl": "lfm2",
    "lfm3_vl": "lfm3",
    "nemotron_h_omni": "nemotron_h",
    "hyperclovax_vision_v2": "hyperclovax",
    "paddleocr_vl": "paddleocr_vl_text",
    "granite_speech": "granite",
    "granite4_vision": "granite",
    "granite_docling": "granite_docling_text",
    "smolvlm": "llama",
    "fast_vlm": "qwen2",
    "ovis2": "qwen2",
    "molmo2": "molmo2_text",
    "unlimited_ocr": "unlimited_ocr_text",
    "step3p7": "step3p5",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe_text",
    "emu3": "emu3_text_model",
    "deepseek_vl": "llama",
    "deepseek_vl_hybrid": "llama",
    "deepseek_ocr2": "deepseek",
    "internvl_chat": "qwen2",
    "hunyuan_vl": "hunyuan_vl_text",
}
#: Fields that a text model inherits from its wrapper.
_SHARED: Final = (
    "quantization_config",
    "compression_config",
    "torch_dtype",
    "dtype",
)


class Text(msgspec.Struct, frozen=True):
    """The fields of the text model, and of the whole file."""

    config: Fields
    family: str
    whole: Fields


def text_of(config: Fields) -> Text:
    """Return the text model of `config`: itself, or that inside a wrapper.

    Raises InputError for a wrapper without a text model.
    """
    named = _BY_ARCHITECTURE.get(_first_architecture(config), "")
    family = named or config.text("model_type", "")
    found, where = config, config
    for _ in range(3):  # Omni models contain a thinker, which contains the text model
        name = next((n for n in _TEXT if isinstance(where.values.get(n), dict)), None)
        if name is None:
            break
        found = where.object(name)
        inner = found.text("model_type", "")
        family = inner or _DEFAULT_TYPES.get(family, family)
        where = found
    if family not in READERS and family not in OTHER_KINDS:
        family = _OF_CLASS.get(_first_architecture(found), family)
    if found is config:
        if not family:
            raise config.bad("model_type", "the name of a model family")
        _refuse_without_text(config, family)
        return Text(config.with_defaults(**_left_out(family, config.values)), family, config)
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


@cache
def _class_defaults() -> dict[str, dict[str, Any]]:
    """Return {model_type: default sizes and their aliases}. Inner configs may lack sizes, because
    wrappers are saved without default values. Source: configuration classes of transformers 5.23.
    """
    found: dict[str, dict[str, Any]] = msgspec.json.decode(_DEFAULTS.read_bytes())
    return found


#: Sizes that every file has, unless it was saved without default values.
_ALWAYS: Final = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
#: Sizes that have the same name in all families.
_ONE_NAME: Final = (
    *_ALWAYS,
    *("intermediate_size", "num_key_value_heads", "max_position_embeddings"),
)


def _defaults_of(family: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class's defaults for sizes that `given` lacks under any alias.

    In a file with all of `_ALWAYS`, other sizes may have older names, so only sizes in `_ONE_NAME`
    get defaults.
    """
    known = _class_defaults().get(_LIKE.get(family, family), {})
    aliases = known.get("aliases", {})
    absent = {
        name: value
        for name, value in known.get("values", {}).items()
        if name not in given and not any(other in given for other in aliases.get(name, ()))
    }
    if any(name in absent for name in _ALWAYS):
        return absent
    return {name: value for name, value in absent.items() if name in _ONE_NAME}


#: Fields that a file may lack and transformers then fills in -> their aliases.
_LEFT_OUT: Final = {
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "num_attention_groups"),
    "head_dim": ("kv_channels", "attention_head_dim"),
    "q_lora_rank": (),
    "tie_word_embeddings": ("tie_embedding", "tie_embeddings"),
    "n_shared_experts": ("num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "num_shared_experts": ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "first_k_dense_replace": ("moe_layer_freq", "mlp_layer_types", "num_dense_layers"),
    "sliding_window": ("sliding_window_size", "attention_window_size", "use_sliding_window"),
    "attention_bias": ("use_bias", "qkv_bias", "bias"),
}


def _left_out(family: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class's defaults for missing fields of a file without a wrapper, except its main
    sizes."""
    if all(name in given for name in _LEFT_OUT):
        return {}
    known = _class_defaults().get(family, {}).get("values", {})
    return {
        name: known[name]
        for name, others in _LEFT_OUT.items()
        if name in known and name not in given and not any(other in given for other in others)
    }


#: Families that use the class of another family.
_LIKE: Final = {"kimi_k2": "deepseek_v3", "minimax_m3": "minimax_m3_vl_text"}


def _merged(inner: Fields, outer: Fields, family: str) -> Fields:
    values: dict[str, Any] = {**_defaults_of(family, inner.values), **inner.values}
    values = {**_left_out(_LIKE.get(family, family), values), **values}
    tie = "tie_word_embeddings"
    if outer.values.get(tie) is not None:  # the head belongs to the outer class
        values[tie] = outer.values[tie]
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


#: Architectures whose files have another model_type.
_BY_ARCHITECTURE: Final = {"Grok1ForCausalLM": "grok-1", "Grok1ModelForCausalLM": "grok-1"}
#: `architectures` -> family, for files without a model_type or with one that is not understood.
#: vLLM and SGLang choose their class by this name.
_OF_CLASS: Final = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "AquilaForCausalLM": "llama",
    "IQuestCoderForCausalLM": "llama",
    "TeleFLMForCausalLM": "llama",
    "TeleChat3ForCausalLM": "telechat3",
    "MistralForCausalLM": "mistral",
    "Ministral3ForCausalLM": "ministral3",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3_5ForCausalLM": "qwen3_5_text",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe_text",
    "GptOssForCausalLM": "gpt_oss",
    "DeepseekForCausalLM": "deepseek",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "GlmForCausalLM": "glm",
    "Glm4ForCausalLM": "glm4",
    "Glm4MoeForCausalLM": "glm4_moe",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "GlmMoeDsaForCausalLM": "glm_moe_dsa",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Phi3ForCausalLM": "phi3",
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere2",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM3ForCausalLM": "internlm3",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "MiMoForCausalLM": "mimo",
    "MiMoV2FlashForCausalLM": "mimo_v2_flash",
    "MiMoV2ForCausalLM": "mimo_v2",
    "BailingMoeForCausalLM": "bailing_moe",
    "BailingMoeV2ForCausalLM": "bailing_moe_v2",
    "BailingMoeV2_5ForCausalLM": "bailing_hybrid",
    "BailingMoeV3ForCausalLM": "bailing_hybrid",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
    "SeedOssForCausalLM": "seed_oss",
    "LongcatFlashForCausalLM": "longcat_flash",
    "LongcatFlashNgramForCausalLM": "longcat_flash",
    "NemotronForCausalLM": "nemotron",
    "NemotronHForCausalLM": "nemotron_h",
    "Step1ForCausalLM": "step1",
    "Step3p5ForCausalLM": "step3p5",
    "PanguEmbeddedForCausalLM": "PanguEmbedded",
    "PanguProMoEV2ForCausalLM": "PanguProMoE",
    "PanguUltraMoEForCausalLM": "pangu_ultra_moe",
    "TeleChatForCausalLM": "telechat",
    "TeleChat2ForCausalLM": "telechat2",
    "Param2MoEForCausalLM": "param2moe",
    "AliceAIForCausalLM": "alice_ai",
    "Rnj1ForCausalLM": "rnj1",
    "XverseForCausalLM": "xverse",
}


def _first_architecture(config: Fields) -> str:
    names = config.items("architectures", str)
    return str(names[0]) if names else ""
