"""The engines by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shardwise.engines.atom import ATOM
from shardwise.engines.builtin import BUILTIN
from shardwise.engines.engine import Engine
from shardwise.engines.sglang import SGLANG
from shardwise.engines.trtllm import TRTLLM
from shardwise.engines.vllm import VLLM
from shardwise.errors import UnknownNameError

_ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (VLLM, SGLANG, TRTLLM, ATOM, BUILTIN)
}


def names() -> tuple[str, ...]:
    """Names of all engines, the most used first."""
    return tuple(_ENGINES)


def get(name: str) -> Engine:
    """The engine called `name`. Raises UnknownNameError, an InputError, with those there are."""
    if name not in _ENGINES:
        raise UnknownNameError("engine", name, _ENGINES)
    return _ENGINES[name]


def every() -> tuple[Engine, ...]:
    """All engines, in the order of `names`."""
    return tuple(_ENGINES.values())


def managed() -> tuple[str, ...]:
    """Names of the engines that Shardwise starts itself."""
    return tuple(engine.name for engine in every() if engine.managed)


@contextmanager
def registered(engine: Engine) -> Iterator[Engine]:
    """Know `engine` as well within a `with` block: for trying a new one."""
    assert engine.name not in _ENGINES
    _ENGINES[engine.name] = engine
    try:
        yield engine
    finally:
        del _ENGINES[engine.name]
