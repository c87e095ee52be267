"""Libraries that are an extra: say so in one line where they are absent."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from shardwise.errors import InputError

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


def require_engine_extra() -> None:
    """Raises InputError naming the libraries that are not installed."""
    require_modules(NEEDED, "engine")


def require_modules(needed: Sequence[str], extra: str) -> None:
    """Raises InputError naming those of `needed` that are not installed, and the extra that
    brings them."""
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        raise InputError(
            f"this needs {', '.join(absent)}", remedy=f"pip install 'shardwise[{extra}]'"
        )
