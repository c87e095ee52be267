"""The engines by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Final

from shardwise.engines.engine import Engine
from shardwise.errors import UnknownNameError

#: Name -> location of its record. A module is imported on first use of its engine.
_RECORDS: Final = {
    "vllm": ("shardwise.engines.vllm", "VLLM"),
    "sglang": ("shardwise.engines.sglang", "SGLANG"),
    "trtllm": ("shardwise.engines.trtllm", "TRTLLM"),
    "atom": ("shardwise.engines.atom", "ATOM"),
    "builtin": ("shardwise.engines.builtin", "BUILTIN"),
}
_TRIED: dict[str, Engine] = {}  #: engines added by `registered`


def names() -> tuple[str, ...]:
    """Return the names of all engines, the most used first."""
    return (*_RECORDS, *_TRIED)


def get(name: str) -> Engine:
    """Return the engine `name`. Raises UnknownNameError, an InputError that lists all names."""
    if name in _TRIED:
        return _TRIED[name]
    if name not in _RECORDS:
        raise UnknownNameError("engine", name, names())
    return _record(name)


@cache
def _record(name: str) -> Engine:
    module, record = _RECORDS[name]
    found: Engine = getattr(import_module(module), record)
    return found


def every() -> tuple[Engine, ...]:
    """Return all engines in the order of `names`."""
    return tuple(get(name) for name in names())


def managed() -> tuple[str, ...]:
    """Return the names of the engines that Shardwise can start."""
    return tuple(engine.name for engine in every() if engine.managed)


@contextmanager
def registered(engine: Engine) -> Iterator[Engine]:
    """Add `engine` to the registry within a `with` block, to try a new one."""
    assert engine.name not in names()
    _TRIED[engine.name] = engine
    try:
        yield engine
    finally:
        del _TRIED[engine.name]
