"""Check of the random seed that several functions take."""

from __future__ import annotations

from shardwise.errors import InputError


def require_seed(seed: int) -> None:
    """Raise InputError for a seed that is not a whole number from 0 up."""
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}", "allowed: whole numbers from 0 up", field="seed")
