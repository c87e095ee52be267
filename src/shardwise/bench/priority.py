"""Real-time priority for the client, if permitted.

On a machine shared with the engine, timestamps are late if the client waits for a core. The client
needs about 1 % of a core, which costs less than the error that this avoids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ahead() -> Iterator[bool]:
    """Use real-time scheduling in this block; yields whether it was granted.

    Processes started in the block (engines, probes) have normal priority.
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
