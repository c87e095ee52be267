"""Bundled models: their names, spellings and published checkpoints."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from shardwise.architecture.model import Model, in_dtype
from shardwise.architecture.reading.parse import parse

_DATA: Final = Path(__file__).parent / "data"
#: Words of a checkpoint's name that do not change the shape of the model.
_SAME_SHAPE: Final = frozenset(
    {"meta", "instruct", "it", "chat", "hf", "base", "kv", "dynamic", "preview"}
)
#: Words of a checkpoint's name that state the dtype of the weights -> dtype.
_DTYPE_WORDS: Final = {
    "bf16": "bf16",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "int4": "int4",
    "awq": "int4",
    "gptq": "int4",
    "w4a16": "int4",
    "int8": "int8",
    "w8a8": "int8",
}
#: Publishers of quantized copies under the original names, besides the models' own publishers.
_REPUBLISHERS: Final = frozenset(
    {"amd", "nvidia", "neuralmagic", "redhatai", "unsloth", "hugging-quants"}
)


#: "fp4" is any published 4-bit float.
_FP4: Final = {"fp4": ("nvfp4", "mxfp4")}


@cache
def bundled() -> tuple[str, ...]:
    """Ids of the bundled models, sorted."""
    return tuple(sorted(n.removesuffix(".json") for n in _data_names() if not n.startswith("_")))


def named(given: str) -> Model | None:
    """Return the bundled model that `given` names: an id, a usual spelling or a published
    checkpoint.

    None for an unknown name.
    """
    if given in bundled():
        return parse(_values(given), given, given)
    known = _checkpoints().get(given.lower())
    if known is not None:
        model_id, dtype = known
        return _as_published(model_id, dtype)
    spelling, dtype_word = _spelling(given)
    found = _spellings().get(spelling) if spelling else None
    if found is None:
        return None
    model = parse(_values(found), found, found)
    if dtype_word is None or dtype_word == model.checkpoint_dtype:
        return model
    # "…-FP8-KV": the checkpoint specifies an fp8 cache
    words = [f"{dtype_word}-kv"] if given.lower().endswith("-kv") else []
    for word in (*words, dtype_word):
        if word in _published(found):
            return _as_published(found, word)
    return in_dtype(model, dtype_word)


def published_id(name: str) -> str | None:
    """Return the Hugging Face id of the bundled model `name`; None if it has none."""
    return _values(name).get("_hub_id") if name in bundled() else None


def published_checkpoint(name: str, dtype: str) -> str | None:
    """Return the Hugging Face id of a published checkpoint of the bundled model `name` in `dtype`.

    `dtype` is that of the original checkpoint ("auto"), or of a quantized one. None if no such
    checkpoint is known.
    """
    if name not in bundled():
        return None
    published = _published(name)
    if dtype in published:
        return str(published[dtype]["id"])
    own = parse(_values(name), name, name).checkpoint_dtype
    wanted = _FP4.get(dtype, (dtype,))
    if dtype == "auto" or own in wanted or (dtype == "fp16" and own == "bf16"):
        return published_id(name)
    return next((str(published[d]["id"]) for d in wanted if d in published), None)


@lru_cache(maxsize=512)
def stored_in(model: Model, dtype: str) -> Model:
    """Return `model` with its weights in `dtype`, stored as in the published checkpoint.

    Without a published checkpoint, and for a model that is not bundled, use `in_dtype`. "auto"
    returns the model unchanged.

    Raises:
        InputError: The dtype is unknown.
    """
    if dtype in ("auto", model.checkpoint_dtype) or model.id not in bundled():
        return in_dtype(model, dtype)
    published = _published(model.id)
    wanted = next((d for d in _FP4.get(dtype, (dtype,)) if d in published), None)
    base = parse(_values(model.id), model.id, model.id)
    if wanted is None or (base.family, base.shape) != (model.family, model.shape):
        return in_dtype(model, dtype)
    return _as_published(model.id, wanted)


def bundled_config(name: str) -> dict[str, Any]:
    """Return the config.json of the bundled model `name`."""
    return {k: v for k, v in _values(name).items() if not k.startswith("_")}


def _data_names() -> list[str]:
    return [entry.name for entry in _DATA.glob("*.json")]


@cache
def _values(name: str) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.json.decode((_DATA / f"{name}.json").read_bytes())
    return values


def _published(name: str) -> dict[str, dict[str, Any]]:
    """Return {dtype: {"id", "quantization"}} of the published checkpoints of a bundled model."""
    found: dict[str, dict[str, Any]] = _values(name).get("_checkpoints", {})
    return found


def _as_published(model_id: str, dtype: str) -> Model:
    quantization = _published(model_id)[dtype]["quantization"]
    if isinstance(quantization, str):
        quantization = _values("_quantization")[quantization]
    values = {**_values(model_id), "quantization_config": quantization}
    return parse(values, model_id, model_id)


@cache
def _checkpoints() -> dict[str, tuple[str, str]]:
    """Return {hub id in lower case: (bundled id, dtype)} of the published checkpoints."""
    return {
        checkpoint["id"].lower(): (model_id, dtype)
        for model_id in bundled()
        for dtype, checkpoint in _published(model_id).items()
    }


def _spelling(name: str) -> tuple[str, str | None]:
    """Return `name` reduced to the words that identify a model, and its dtype, if any."""
    org, _, last = name.lower().rpartition("/")
    if org and org not in _publishers():
        return "", None
    last = re.sub(r"[\s_:]+", "-", last)
    last = re.sub(r"\b(llama|qwen|mixtral|mistral)-?(?=\d)", _joined, last)
    words = last.split("-")
    dtypes = [_DTYPE_WORDS[word] for word in words if word in _DTYPE_WORDS]
    kept = [word for word in words if word not in _SAME_SHAPE and word not in _DTYPE_WORDS]
    return "-".join(kept), dtypes[0] if dtypes else None


@cache
def _publishers() -> frozenset[str]:
    hub_ids = (str(_values(model_id).get("_hub_id", "")) for model_id in bundled())
    return _REPUBLISHERS | {hub_id.partition("/")[0].lower() for hub_id in hub_ids}


def _joined(match: re.Match[str]) -> str:
    """Join family and version: without a hyphen for Qwen (`qwen3-8b`), with one for others."""
    family = match.group(1)
    return family if family == "qwen" else f"{family}-"


@cache
def _spellings() -> dict[str, str]:
    """Return {reduced spelling: bundled id}."""
    known = {}
    for model_id in bundled():
        values = _values(model_id)
        names = (model_id, values.get("_hub_id", model_id), *values.get("_aliases", ()))
        for name in names:
            known[_spelling(name)[0]] = model_id
    return known
