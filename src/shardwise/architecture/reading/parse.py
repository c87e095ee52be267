"""A config.json object to a `Model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.model import Model
from shardwise.architecture.quantization.methods import plain_format, rules_of
from shardwise.architecture.quantization.rules import Rules
from shardwise.architecture.reading.assemble import assemble
from shardwise.architecture.reading.registry import reader
from shardwise.architecture.reading.unread import refuse_unread
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


def parse(values: Mapping[str, Any], model_id: str, where: str = "config.json") -> Model:
    """The Model that the config.json object `values` describes.

    `where` names the input in errors. Raises InputError for anything not understood.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} holds a {type(values).__name__}", "allowed: a JSON object")
    config = Fields(values, where)
    family = config.text("model_type")
    decoder = reader(family, where)(config)
    refuse_unread(config)
    plain = plain_format(config)
    rules = Rules(plain)
    if config.has("quantization_config"):
        rules = rules_of(config.object("quantization_config"), plain)
    return assemble(
        decoder,
        rules,
        model_id=model_id,
        family=family,
        generates=generates(config),
    )


#: Ends in Model and yet has a head.
_HEADS: Final = ("LMHeadModel", "ChatGLMModel")


def generates(config: Fields) -> bool:
    """Whether the checkpoint has a head that gives tokens, from `architectures`."""
    names = config.items("architectures", str)
    if not names or names[0].endswith(_HEADS):
        return True
    return not names[0].endswith((*_NO_HEAD, "Model"))
