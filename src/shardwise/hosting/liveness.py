"""Check whether a running replica works: /health answers, and completions arrive.

Unlike a crash, a hang leaves the socket open, so a completion is requested regularly. A missing
completion is not a hang if the engine's counters show progress.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import msgspec

from shardwise.hosting.launching import Launch
from shardwise.replica import probing

HEALTH_EVERY_S: Final = 2.0
HEALTH_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 2.0  #: interval after a failed completion
#: time limit for an engine without counters, which may be busy
BLIND_TIMEOUT_S: Final = 300.0


class Verdict(msgspec.Struct, frozen=True):
    """Result of a liveness check."""

    trouble: str = ""  #: empty: no problem
    hangs: bool = False  #: whether the problem lasted so long that a restart is needed


class Liveness:
    """Checks one ready replica; `look` is called about every HEALTH_EVERY_S."""

    def __init__(self, launch: Launch, key: str = "") -> None:
        self._launch, self._key = launch, key
        now = time.monotonic()
        self._well_s = now  #: when /health last answered
        self._next_ask_s = now + launch.model.probe_interval_s
        self._asked_s: float | None = None  #: when the unanswered completion was requested
        self._moved_s = now  #: when the engine's counters last changed
        self._counter: float | None = None
        self._thread: threading.Thread | None = None
        self._answer = ""

    def look(self) -> Verdict:
        """Request /health, and a completion if it is due."""
        limit_s = self._launch.model.hang_timeout_s
        patience_s = min(HEALTH_TIMEOUT_S, limit_s)
        if probing.request(self._launch.url, "/health", timeout_s=patience_s)[0] != 200:
            silent_s = time.monotonic() - self._well_s
            if silent_s > limit_s:
                return Verdict(f"did not answer /health for {silent_s:.0f} s", hangs=True)
            return Verdict("does not answer /health")
        self._well_s = time.monotonic()
        self._follow_completion()
        return self._verdict_of_completion(limit_s)

    def _follow_completion(self) -> None:
        now = time.monotonic()
        if self._thread and not self._thread.is_alive():
            self._thread = None
            if self._answer:
                self._next_ask_s = now + RETRY_S
            else:
                self._asked_s, self._next_ask_s = None, now + self._launch.model.probe_interval_s
        if self._thread is None and now >= self._next_ask_s:
            if self._asked_s is None:
                self._asked_s = self._moved_s = now
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        model = self._launch.model
        self._answer = "no answer"
        self._answer = probing.complete(
            self._launch.url, model.served_name, model.task, self._key, BLIND_TIMEOUT_S
        )

    def _verdict_of_completion(self, limit_s: float) -> Verdict:
        if self._asked_s is None:
            return Verdict()
        counter, now = probing.progress(self._launch.url), time.monotonic()
        if counter != self._counter:
            self._counter, self._moved_s = counter, now
        if counter is None:
            limit_s = max(limit_s, BLIND_TIMEOUT_S)
        still_s = now - max(self._asked_s, self._moved_s)
        if still_s > limit_s:
            text = f"answers /health, but no completion for {now - self._asked_s:.0f} s"
            return Verdict(f"{text}: {self._answer}" if self._answer else text, hangs=True)
        if still_s > limit_s / 2:
            return Verdict("answers /health, but no completion")
        return Verdict()
