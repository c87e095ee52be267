"""Compile the inner loop with Numba if installed; otherwise the same code runs interpreted.

Compiled code is cached between runs, keyed by the sources involved, because Numba does not notice
changes of functions in other files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

F = TypeVar("F", bound=Callable[..., object])

HAS_NUMBA: Final = importlib.util.find_spec("numba") is not None
INSTALL: Final = "pip install 'shardwise[traffic]'"
SOURCES: Final = (
    *("compiling", "frontend", "kernel", "memory", "prefixes"),
    *("queues", "routing", "state", "stepping", "surface"),
)


@cache
def _cache_folder() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(root) / "shardwise" / "compiled" / digest.hexdigest()[:16])


def _njit(function: F, **options: bool) -> F:
    """Return `function`, compiled at its first call if Numba is installed.

    The loop allocates nothing, so it needs no reference counts: with them, passing its tuples of
    arrays took 15 times as long as everything else.
    """
    if not HAS_NUMBA:
        return function
    import numba  # type: ignore[import-not-found,import-untyped,unused-ignore]

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _cache_folder()  # read once, while the function is wrapped
    try:
        wrapped: F = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False, **options)(
            function
        )
    finally:
        numba.config.CACHE_DIR = before
    return wrapped


def compiled(function: F) -> F:
    """Return `function` for calls from compiled functions only; this halves the compile time."""
    return _njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def entry(function: F) -> F:
    """Return `function` for calls from Python."""
    return _njit(function)


def compiles_first() -> bool:
    """Return whether the next run must compile the loop first, which takes half a minute."""
    return HAS_NUMBA and not any(Path(_cache_folder()).rglob("*.nbc"))
