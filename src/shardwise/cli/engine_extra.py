"""The engine's libraries are an extra: say so in one line where they are absent."""

from __future__ import annotations

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
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        raise InputError(
            f"the engine needs {', '.join(absent)}", remedy="pip install 'shardwise[engine]'"
        )
