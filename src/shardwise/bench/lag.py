"""Receive lag: delay between the arrival of data and its time stamp in this process.

A timer makes a file descriptor readable at a known time, and the load client's event loop reads it
like a socket. The difference is the delay that the client adds to each timestamp, including the
time it waits for a core. It does not include delays of the server.
"""

from __future__ import annotations

from array import array
from time import monotonic
from typing import Final

from shardwise.bench.timer import Timer

#: Rare compared with tokens, so that the cost is small. Not a multiple of common gaps between
#: tokens, so that it does not always coincide with the same one.
EVERY_S: Final = 0.0497


class LagProbe:
    """Collect the lag in seconds every EVERY_S, from `start` to `stop`, in `lags`.

    If the loop was blocked, every missed interval counts, because every token in that time was
    delayed.
    """

    def __init__(self) -> None:
        self.lags: array[float] = array("d")
        self._timer: Timer | None = None
        self._due_s = 0.0

    def start(self) -> None:
        """Start waking the event loop at a fixed interval."""
        self._timer = Timer(self._wake)
        self._due_s = monotonic() + EVERY_S
        self._timer.set(self._due_s)

    def stop(self) -> None:
        """Stop waking the event loop."""
        if self._timer is not None:
            self._timer.close()

    def _wake(self) -> None:
        assert self._timer is not None
        now = monotonic()
        while self._due_s <= now:
            self.lags.append(now - self._due_s)
            self._due_s += EVERY_S
        self._timer.set(self._due_s)
