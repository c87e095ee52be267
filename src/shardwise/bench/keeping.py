"""A measured cell into its store, or, where that cannot be written, beside it."""

from __future__ import annotations

from collections.abc import Callable

from shardwise.evidence.measured import Measured
from shardwise.evidence.store import Store, UnkeptError


def keep(store: Store, cell: Measured, say: Callable[[str], None]) -> None:
    """Put `cell` into `store` unless it has no run; say where it went where that fails.

    A run goes on after it: what kept the store may pass, and each cell is tried anew.
    """
    if not cell.repeats:  # interrupted while it warmed up
        return
    try:
        store.put(cell)
    except UnkeptError as error:
        say(f"shardwise: {error}")
