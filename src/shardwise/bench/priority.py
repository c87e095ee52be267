"""Real-time priority for the client, if permitted.

On a machine shared with the engine, a client that waits for a core stamps late. It needs about a
hundredth of a core, which costs less than the error it avoids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ahead() -> Iterator[bool]:
    """Use real-time scheduling in this block; yields whether it was granted.

    Processes started meanwhile (engines, probes) are scheduled as usual.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
