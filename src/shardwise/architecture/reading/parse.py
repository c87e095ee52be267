"""Parse a config.json object to a `Model`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import Format
from shardwise.architecture.model import Model
from shardwise.architecture.quantization.methods import plain_format, rules_of
from shardwise.architecture.quantization.rules import Rules
from shardwise.architecture.reading.assemble import assemble
from shardwise.architecture.reading.registry import reader
from shardwise.architecture.reading.towers import towers
from shardwise.architecture.reading.unread import refuse_unread
from shardwise.architecture.reading.wrappers import text_of
from shardwise.errors import InputError

#: Endings of `architectures` without a language model's head.
_NO_HEAD: Final = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForRewardModel",
    "ForSequenceClassificationReward",
    "RewardModel",
    "ForEmbedding",
)
#: Architectures of heads that draft tokens for a base model: names from vLLM's
#: `_SPECULATIVE_DECODING_MODELS` and SGLang's models folder. Eagle VL is none of them.
_DRAFT: Final = re.compile(
    r"(Eagle3?|NextN|MTP|MTPModel|Speculator|DraftModel)$"
    r"|^Eagle3?[A-Z]\w*ForCausalLM$|DFlash|DSpark|Medusa"
)


def parse(values: Mapping[str, Any], model_id: str, where: str = "config.json") -> Model:
    """Return the model that the config.json object `values` describes.

    `where` names the input in errors. Raises InputError for unsupported content.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} is a {type(values).__name__}", "allowed: a JSON object")
    text = text_of(Fields(values, where))
    config = text.config
    read = reader(text.family, where)
    _refuse_draft(config)
    decoder = read(config)
    refuse_unread(config)
    plain = plain_format(config)
    return assemble(
        decoder,
        _rules(config, text.whole, plain),
        model_id=model_id,
        family=text.family,
        towers=towers(text.whole, decoder.hidden_size, plain),
        generates=generates(config),
    )


def _refuse_draft(config: Fields) -> None:
    """Refuse a draft head, whose config names the family of the base model."""
    name = next(iter(config.items("architectures", str)), "")
    if _DRAFT.search(name):
        raise InputError(
            f"{config.where}: {name[:40]} drafts tokens for another model",
            "allowed: a complete model",
            "give the config.json of the base model, or of a complete draft model",
        )


def _rules(config: Fields, whole: Fields, plain: Format) -> Rules:
    name = config.name_of("quantization_config", "compression_config")
    for fields, at in ((config, name), (config, "quantization"), (whole, "quantization")):
        _refuse_mlx(fields, at)
    if not config.has(name):
        return Rules(plain)
    quant = config.object(name)
    # DeepSeek-V4 states the dtype of its experts outside the quantization_config
    extra = {"expert_dtype": config.get("expert_dtype")}
    return rules_of(Fields({**extra, **quant.values}, quant.where), plain)


#: Fields of a quantization config that MLX's does not have.
_GPTQ: Final = {"quant_method", "desc_act", "sym", "zero_point"}


def _refuse_mlx(config: Fields, name: str) -> None:
    """Refuse MLX's config, which has no method: engines for servers do not load its weights."""
    quant = config.values.get(name)
    if not isinstance(quant, dict) or _GPTQ & {*quant}:
        return
    if {"bits", "group_size"} <= {*quant}:
        raise InputError(
            f"{config.where}: {name} is of MLX: no quant_method, bits {str(quant['bits'])[:20]}",
            "MLX checkpoints are not supported",
            "give the config.json of the original or of a quantized checkpoint for vLLM or SGLang",
        )


#: Endings in "Model" of architectures with a head.
_HEADS: Final = ("LMHeadModel", "ChatGLMModel")


def generates(config: Fields) -> bool:
    """Whether the checkpoint has a language model head, from `architectures`."""
    names = config.items("architectures", str)
    if not names or names[0].endswith(_HEADS):
        return True
    return not names[0].endswith((*_NO_HEAD, "Model"))
