"""The client ahead of everything else on its machine, where that is permitted.

On a machine that it shares with the engine, a client that waits for a core stamps late. It needs a
hundredth of one, so what it takes is less than what it would add.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ahead() -> Iterator[bool]:
    """Real-time scheduling of this process meanwhile; whether it was granted.

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
