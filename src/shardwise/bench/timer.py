"""Timers with a finer resolution than an event loop's millisecond (2 % of a TTFT of 50 ms).

On Linux a timerfd wakes the loop like a socket, within tens of microseconds and without spinning
(timerfd_create(2)). On other systems the loop's own timers are used, with their rounding.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _timerfd() -> int:
    """Return a new timerfd; -1 if the system has none."""
    create = getattr(ctypes.CDLL(None), "timerfd_create", None)
    return -1 if create is None else int(create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))


class Timer:
    """Calls `wake` in the running loop at the time last set. Close it after use."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._fd = _timerfd()
        if self._fd >= 0:
            self._set = ctypes.CDLL(None).timerfd_settime
            self._loop.add_reader(self._fd, self._expired)

    def set(self, when_s: float) -> None:
        """Wake at `when_s` of CLOCK_MONOTONIC, or now if that is in the past."""
        if self._fd < 0:
            wait_s = max(when_s - monotonic(), 0.0)
            self._handle = self._loop.call_later(math.ceil(wait_s * 1e3) / 1e3, self._wake)
            return
        whole = int(when_s)
        at = _Timespec(whole, max(int((when_s - whole) * 1e9), 1))  # 0 would disarm the timer
        self._set(self._fd, _ABSOLUTE, ctypes.byref(_Setting(_Timespec(0, 0), at)), None)

    def close(self) -> None:
        """Cancel the timer and release its file descriptor."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)  # otherwise it stays readable
        except BlockingIOError:  # it was set again after it expired
            return
        self._wake()


class Alarm:
    """Sleep with `await alarm.until(t)`, one waiter at a time."""

    def __init__(self) -> None:
        self._timer = Timer(self._ring)
        self._waiter: asyncio.Future[None] | None = None

    async def until(self, when_s: float) -> None:
        """Return at `when_s` of CLOCK_MONOTONIC, never earlier."""
        while monotonic() < when_s:
            self._waiter = asyncio.get_running_loop().create_future()
            self._timer.set(when_s)
            await self._waiter

    def close(self) -> None:
        """Cancel the alarm and release its timer."""
        self._timer.close()

    def _ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
