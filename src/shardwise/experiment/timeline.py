"""Time spent by an experiment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")
Doing = Literal["hardware", "starting", "measuring", "stopping", "analysis"]


class Spent(msgspec.Struct, frozen=True):
    """Seconds of one run of the loop by activity; `idle_s` is the rest."""

    total_s: float
    by: dict[str, float]

    @property
    def idle_s(self) -> float:
        """Unaccounted seconds."""
        return max(0.0, self.total_s - sum(self.by.values()))

    @property
    def idle_pct(self) -> float:
        """Unaccounted share of the time in percent."""
        return 100.0 * self.idle_s / self.total_s if self.total_s else 0.0


class Timeline:
    """A clock of the whole loop, by named activity."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._by: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    @contextmanager
    def doing(self, what: Doing) -> Iterator[None]:
        """Count the time within the block as `what`."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._by[what] = self._by.get(what, 0.0) + time.monotonic() - begun

    @contextmanager
    def using(self, service: AbstractContextManager[T]) -> Iterator[T]:
        """Enter and leave `service`, counting its start and stop."""
        with ExitStack() as stack:
            with self.doing("starting"):
                served = stack.enter_context(service)
            try:
                yield served
            finally:
                with self.doing("stopping"):
                    stack.close()

    def spent(self) -> Spent:
        """Return the time spent so far, by activity."""
        return Spent(self.elapsed_s, dict(self._by))
