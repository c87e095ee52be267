"""Receive lag: delay between the arrival of data and its time stamp in this process.

A timer makes a file descriptor readable at a known moment, and the load client's own loop reads it
in its turn among the sockets. The difference is what the client adds to each timestamp, waiting for
the core included; a server's delays are not in it.
"""

from __future__ import annotations

from array import array
from time import monotonic
from typing import Final

from shardwise.bench.timer import Timer

#: Rare beside tokens, so that looking costs little. No multiple of common gaps between tokens,
#: lest it always meet the same one.
EVERY_S: Final = 0.0497


class LagProbe:
    """From `start` to `stop`, `lags` collects seconds, one for every EVERY_S.

    A stretch in which the loop did not turn counts once for each moment missed, as it delayed
    every token of that stretch.
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
