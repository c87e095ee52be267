"""Optional libraries: which are missing, and the command that installs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from shardwise.errors import InputError

#: modules of the built-in engine
ENGINE: Final = (
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
#: modules of the load client
BENCH: Final = ("uvloop", "httptools", "orjson", "psutil")
#: modules of a study measured here
MEASURE: Final = ("scipy", *BENCH)
#: modules of a deployment
HOST: Final = ("psutil", "yaml", "prometheus_client")


def require_modules(needed: Sequence[str], extra: str) -> None:
    """Raise InputError naming the missing modules of `needed` and the extra that installs them."""
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        raise InputError(
            f"this needs {', '.join(absent)}", remedy=f"pip install 'shardwise[{extra}]'"
        )


def require_engine_extra() -> None:
    """Raise InputError naming the missing modules of the built-in engine."""
    require_modules(ENGINE, "engine")
