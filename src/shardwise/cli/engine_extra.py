"""Report missing optional libraries with the command that installs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from shardwise.errors import InputError

#: extra that installs a library, if it does not follow from the command
EXTRAS: Final = {
    "scipy": "calibrate",
    "huggingface_hub": "hub",
    "torch": "engine",
    "safetensors": "engine",
    "gguf": "engine",
    "starlette": "web",
    "uvicorn": "web",
    "uvloop": "bench",
    "httptools": "bench",
    "orjson": "bench",
    "tokenizers": "bench",
    "psutil": "host",
    "yaml": "host",
    "prometheus_client": "host",
    "numba": "traffic",
    "pyarrow": "parquet",
    "ray": "ray",
}
#: command -> the extra that installs all its libraries
EXTRA_OF_COMMAND: Final = {
    "bench": "bench",
    "study": "measure",
    "serve": "engine",
    "web": "web",
    **dict.fromkeys(("up", "status", "logs", "down", "export"), "host"),
}
NEEDED = (
    "torch",
    "safetensors",
    "tokenizers",
    "gguf",
    "jinja2",
    "starlette",
    "uvicorn",
    "uvloop",
    "prometheus_client",
)


def install_line(module: str, command: str) -> str:
    """Return the command line that installs `module` for `command`; "" if no extra has it."""
    name = module.partition(".")[0]
    if name not in EXTRAS:
        return ""
    extra = EXTRAS[name]
    if extra in ("bench", "host", "engine", "web"):
        extra = EXTRA_OF_COMMAND.get(command, extra)
    return f"pip install 'shardwise[{extra}]'"


def require_engine_extra() -> None:
    """Raise InputError naming the libraries that are not installed."""
    require_modules(NEEDED, "engine")


def require_modules(needed: Sequence[str], extra: str) -> None:
    """Raise InputError naming the missing modules of `needed` and the extra that installs them."""
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        raise InputError(
            f"this needs {', '.join(absent)}", remedy=f"pip install 'shardwise[{extra}]'"
        )
