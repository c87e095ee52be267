"""Compile the inner loop with Numba where it is installed; else the same code runs interpreted.

Compiled code is kept between runs, keyed by the sources that are compiled or hold the arrays:
Numba itself would not notice that a function called from another file has changed.
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
    *("queues", "routing", "state", "stepping"),
)


@cache
def _cache_folder() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(root) / "shardwise" / "compiled" / digest.hexdigest()[:16])


def _njit(function: F, **options: bool) -> F:
    """`function`, compiled at its first call if Numba is there.

    The loop allocates nothing, so it needs no reference counts: with them, handing on its tuples of
    arrays took 15 times as long as all the rest.
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
    """`function` for other compiled functions to call; half the time to compile is saved by not
    making it callable from Python as well."""
    return _njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def entry(function: F) -> F:
    """`function` to be called from Python."""
    return _njit(function)


def compiles_first() -> bool:
    """Whether the next run has to compile the loop first, which takes half a minute, once."""
    return HAS_NUMBA and not any(Path(_cache_folder()).rglob("*.nbc"))
