"""Load models by name, from a local file or folder, or from the Hugging Face hub."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from shardwise.architecture.bundled import (
    bundled,
    bundled_config,
    named,
    published_checkpoint,
    published_id,
)
from shardwise.architecture.model import Model
from shardwise.architecture.reading.parse import parse
from shardwise.errors import InputError, UnknownNameError
from shardwise.files import read_utf8

__all__ = ["bundled", "bundled_config", "load", "published_checkpoint", "published_id"]

_MAX_CONFIG_BYTES: Final = 10_000_000
_HUB_ID: Final = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
#: File next to config.json; modelopt checkpoints of 2024 state their dtype only there.
_SIDECAR: Final = "hf_quant_config.json"
#: Words in the name of a checkpoint that may have such a file.
_QUANTIZED_NAME: Final = re.compile(r"fp8|fp4|int4|int8|awq", re.IGNORECASE)


def load(name_or_path: str) -> Model:
    """Load a model from a bundled name, a local config.json or its folder, or a hub id.

    A bundled model is recognised in its common spellings (`meta-llama/Llama-3.1-70B-Instruct`). A
    name with a dtype (`…-FP8`) returns the model as stored in that published checkpoint.

    Raises:
        InputError: The model is not found, cannot be read or is not supported.
    """
    given = name_or_path.strip()
    if not given or "\0" in given or len(given) > 4096:
        raise InputError("model name is empty or invalid", _remedy())
    path = Path(given).expanduser()
    is_path = "/" in given and _exists(path)
    if not is_path and (known := named(given)):
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


def _from_path(path: Path) -> Model:
    file = path / "config.json" if path.is_dir() else path
    model_id = file.parent.resolve().name if file.name == "config.json" else file.stem
    return _parsed(file, file.parent / _SIDECAR, model_id, str(file))


def _parsed(file: Path, sidecar: Path, model_id: str, where: str) -> Model:
    values = _read_object(file)
    if _exists(sidecar) and sidecar.is_file():
        quant = _read_object(sidecar).get("quantization")
        if isinstance(quant, dict):
            own = values.setdefault("quantization_config", {"quant_method": "modelopt", **quant})
            _require_agreement(own, quant, where)
    return parse(values, model_id, where)


def _require_agreement(own: Any, beside: dict[str, Any], where: str) -> None:
    algorithms = {
        str(quant["quant_algo"])
        for quant in (own, beside)
        if isinstance(quant, dict) and quant.get("quant_algo")
    }
    if len(algorithms) > 1:
        raise InputError(
            f"{where}: quant_algo is {' and '.join(sorted(algorithms))}",
            f"allowed: the same in config.json and {_SIDECAR}",
            "remove the one that does not belong to the weights",
        )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise InputError(
                f"{file} has {file.stat().st_size / 1e6:.0f} MB", "a config.json has a few KB"
            )
        values = json.loads(read_utf8(file))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}", _remedy()) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {str(error)[:100]}", _remedy()) from error
    if not isinstance(values, dict):
        raise InputError(f"{file} is a {type(values).__name__}", "allowed: a JSON object")
    return values


def _from_hub(hub_id: str) -> Model:
    remedy = "download its config.json and give that file"
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"{hub_id[:200]!r} is neither bundled nor a local path, and downloading from the "
            "Hugging Face hub needs huggingface_hub",
            "pip install 'shardwise[hub]'",
            f"or {remedy}",
        ) from error
    try:
        file = Path(_fetch(hub, hub_id, "config.json"))
    # errors of huggingface_hub are OSError (HTTP, offline) or ValueError (a malformed id)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"cannot fetch config.json of {hub_id!r} from the Hugging Face hub: {reason}",
            "check the id, the network and, for gated models, HF_TOKEN",
            f"or {remedy}",
        ) from error
    sidecar = file.parent / _SIDECAR
    if _QUANTIZED_NAME.search(hub_id) and "quantization_config" not in _read_object(file):
        sidecar = _fetched_sidecar(hub, hub_id, sidecar)
    return _parsed(file, sidecar, hub_id.rpartition("/")[2].lower(), hub_id)


def _fetched_sidecar(hub: ModuleType, hub_id: str, otherwise: Path) -> Path:
    try:
        return Path(_fetch(hub, hub_id, _SIDECAR))
    except (OSError, ValueError):  # most checkpoints have none
        return otherwise


def _fetch(hub: ModuleType, hub_id: str, name: str) -> str:
    """Return the path of a file of `hub_id` in the hub's local cache; download it if missing."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    cached = hub.try_to_load_from_cache(hub_id, name)
    if isinstance(cached, str):
        return cached
    if not getproxies():
        # without a network, the client would retry for 20 s and warn each time
        socket.getaddrinfo(urlsplit(hub.constants.ENDPOINT).hostname, 443)
    return str(hub.hf_hub_download(hub_id, name))
