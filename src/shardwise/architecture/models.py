"""Models by name: bundled configs, a local file or folder, or the Hugging Face hub."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from shardwise.architecture.config import parse
from shardwise.architecture.model import Architecture
from shardwise.errors import InputError, UnknownNameError

#: Words of a checkpoint's name that leave the shape of the model as it is.
_SAME_SHAPE: Final = frozenset({"meta", "instruct", "it", "chat", "hf", "base", "kv", "dynamic"})
#: Words that say the weights are quantized, and to what.
_DTYPE_WORDS: Final = {
    "bf16": "bf16",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "int4": "int4",
    "awq": "int4",
    "gptq": "int4",
    "w4a16": "int4",
    "int8": "int8",
    "w8a8": "int8",
}
#: Weights per scale where a name tells the dtype and no config the block (see WEIGHT_BYTES).
_USUAL_BLOCK: Final = {"int4": 128, "mxfp4": 32, "nvfp4": 16}
#: Publishers of the bundled models and of their quantized copies.
_ORGS: Final = frozenset(
    {
        *("meta-llama", "qwen", "mistralai", "openai", "deepseek-ai", "huggingfacetb"),
        "codellama",
        *("amd", "nvidia", "neuralmagic", "redhatai", "unsloth"),
    }
)
_MAX_CONFIG_BYTES: Final = 10_000_000
_HUB_ID: Final = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


@cache
def bundled() -> tuple[str, ...]:
    """Ids of the bundled models, sorted."""
    return tuple(sorted(name.removesuffix(".json") for name in _data_names()))


def load(name_or_path: str) -> Architecture:
    """The Architecture of a bundled model, a local config.json or its folder, or a hub id.

    A bundled id is recognised in its common spellings (`meta-llama/Llama-3.1-70B-Instruct`); one
    that names a dtype (`…-fp8-kv`) gives an Architecture whose checkpoint has that dtype.
    Raises InputError for what is not found, cannot be read or is not understood.
    """
    given = name_or_path.strip()
    if not given or "\0" in given or len(given) > 4096:
        raise InputError("the model's name is empty or no name", _remedy())
    path = Path(given).expanduser()
    is_path = "/" in given and _exists(path)
    if not is_path and (known := _bundled_architecture(given)):
        return known
    if is_path or _exists(path):
        return _from_path(path)
    if _HUB_ID.fullmatch(given) and not given.startswith("."):
        return _from_hub(given)
    if "/" in given or given.endswith(".json"):
        raise InputError(f"no file or folder {given[:200]!r}", _remedy())
    raise UnknownNameError("model", given, bundled(), _remedy())


def _remedy() -> str:
    return "give a bundled model, a config.json, its folder or a Hugging Face id (org/name)"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False


def _data_names() -> list[str]:
    folder = resources.files("shardwise.architecture") / "data"
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".json")]


def _bundled_values(model_id: str) -> dict[str, Any]:
    file = resources.files("shardwise.architecture") / "data" / f"{model_id}.json"
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _spelling(name: str) -> tuple[str, str | None]:
    """`name` reduced to what tells models apart, and the dtype it names, if any."""
    org, _, last = name.lower().rpartition("/")
    if org and org not in _ORGS:
        return "", None
    last = re.sub(r"[\s_:]+", "-", last)
    last = re.sub(r"\b(llama|qwen|mixtral|mistral)-?(?=\d)", _joined, last)
    words = last.split("-")
    dtypes = [_DTYPE_WORDS[word] for word in words if word in _DTYPE_WORDS]
    kept = [word for word in words if word not in _SAME_SHAPE and word not in _DTYPE_WORDS]
    return "-".join(kept), dtypes[0] if dtypes else None


def _joined(match: re.Match[str]) -> str:
    """Qwen writes its version without a hyphen (`qwen3-8b`), the others with one."""
    family = match.group(1)
    return family if family == "qwen" else f"{family}-"


@cache
def _spellings() -> dict[str, str]:
    """Every known spelling, reduced -> bundled id."""
    known = {}
    for model_id in bundled():
        values = _bundled_values(model_id)
        names = (model_id, values.get("_hub_id", model_id), *values.get("_aliases", ()))
        for name in names:
            known[_spelling(name)[0]] = model_id
    return known


def _bundled_architecture(given: str) -> Architecture | None:
    if given in bundled():
        return parse(_bundled_values(given), given, given)
    spelling, dtype = _spelling(given)
    model_id = _spellings().get(spelling)
    if not spelling or model_id is None:
        return None
    arch = parse(_bundled_values(model_id), model_id, model_id)
    if dtype is None or dtype == arch.checkpoint_dtype:
        return arch
    block = _USUAL_BLOCK.get(dtype, 0)
    if dtype == "fp8" and arch.family.startswith("qwen3") and given.lower().startswith("qwen"):
        block = 128  # Qwen's own FP8 checkpoints have weight_block_size [128, 128]
    return replace(arch, checkpoint_dtype=dtype, quantization_block=block)


def _from_path(path: Path) -> Architecture:
    file = path / "config.json" if path.is_dir() else path
    model_id = file.parent.resolve().name if file.name == "config.json" else file.stem
    values = _read_object(file)
    sidecar = file.parent / "hf_quant_config.json"
    # modelopt checkpoints of 2024 name their dtype in this file only
    if "quantization_config" not in values and sidecar.is_file():
        quant = _read_object(sidecar).get("quantization")
        if isinstance(quant, dict):
            values["quantization_config"] = {"quant_method": "modelopt", **quant}
    return parse(values, model_id, str(file))


def _read_object(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise InputError(
                f"{file} has {file.stat().st_size / 1e6:.0f} MB", "a config.json has a few KB"
            )
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}", _remedy()) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {str(error)[:100]}", _remedy()) from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds a {type(values).__name__}", "allowed: a JSON object")
    return values


def _from_hub(hub_id: str) -> Architecture:
    remedy = "download its config.json and give that file"
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"{hub_id[:200]!r} is neither bundled nor a local path, and the Hugging Face hub "
            "cannot be asked without huggingface_hub",
            "pip install 'shardwise[hub]'",
            f"or {remedy}",
        ) from error
    try:
        file = _fetch(hub, hub_id)
    # its own errors are OSError (HTTP, offline) or ValueError (a malformed id)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"cannot fetch config.json of {hub_id!r} from the Hugging Face hub: {reason}",
            "check the id, the network and, for gated models, HF_TOKEN",
            f"or {remedy}",
        ) from error
    return parse(_read_object(Path(file)), hub_id.rpartition("/")[2].lower(), hub_id)


def _fetch(hub: ModuleType, hub_id: str) -> str:
    """Path of the hub's config.json of `hub_id` in its local cache, downloaded if not there."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    cached = hub.try_to_load_from_cache(hub_id, "config.json")
    if isinstance(cached, str):
        return cached
    if not getproxies():
        # the client would retry for 20 s, with a warning each, where there is no network
        socket.getaddrinfo(urlsplit(hub.constants.ENDPOINT).hostname, 443)
    return str(hub.hf_hub_download(hub_id, "config.json"))


def published_id(name: str) -> str | None:
    """The Hugging Face id of the bundled model of id `name`; None for a model that has none."""
    return _bundled_values(name).get("_hub_id") if name in bundled() else None


def bundled_config(name: str) -> dict[str, Any]:
    """What a config.json of the bundled model of id `name` holds."""
    return {k: v for k, v in _bundled_values(name).items() if not k.startswith("_")}
