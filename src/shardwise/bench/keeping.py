"""Save a measured cell in its store, or in another one if that fails."""

from __future__ import annotations

from collections.abc import Callable

from shardwise.evidence.measured import Measured
from shardwise.evidence.store import Store, UnkeptError


def keep(store: Store, cell: Measured, say: Callable[[str], None]) -> None:
    """Save `cell` in `store` unless it has no run; report the other store if that fails.

    The run continues: the problem may be temporary, and each cell is tried again.
    """
    if not cell.repeats:  # interrupted during warm-up
        return
    try:
        store.put(cell)
    except UnkeptError as error:
        say(f"shardwise: {error}")
