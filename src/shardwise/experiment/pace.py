"""The speed of this machine: time of a fixed piece of work on every available core.

The speed of a shared machine changes within minutes. A measurement is only valid if the machine
was equally fast before and after it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from shardwise.evidence.measured import Measured

#: About 20 ms of matrix products and 10 ms of copies on one core of 2024, like the work of a CPU
#: engine's ranks. On a GPU machine it measures the host, which runs the engine process.
_SIZE, _PRODUCTS = 256, 12
_COPIED_BYTES, _COPIES = 16 << 20, 2
_SAMPLES: Final = 3
PACE: Final = "pace_s"  #: key in a run's and a cell's conditions


def pace_s(cores: int | None = None) -> float:
    """Return the seconds of the work on all cores at the same time: the median of three.

    `cores`: None for all available cores.
    """
    count = cores or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count) as pool:
        return median(_once(pool, count) for _ in range(_SAMPLES))


def _once(pool: ThreadPoolExecutor, count: int) -> float:
    begun = time.perf_counter()
    list(pool.map(_work, range(count)))
    return time.perf_counter() - begun


def _work(_: int) -> float:
    factor = np.ones((_SIZE, _SIZE), np.float32) / _SIZE
    found = factor
    for _ in range(_PRODUCTS):
        found = found @ factor
    block = np.ones(_COPIED_BYTES // 8)
    for _ in range(_COPIES):
        block = block.copy()
    return float(found[0, 0] + block[0])


def with_pace(cell: Measured, before_s: float, after_s: float) -> Measured:
    """Return `cell` with the speeds before and after its last run added."""
    if not cell.repeats:
        return cell
    *earlier, last = cell.repeats
    last = replace(last, client={**last.client, PACE: [before_s, after_s]})
    repeats = (*earlier, last)
    paces = [pace for run in repeats for pace in run.client.get(PACE) or ()]
    return replace(cell, repeats=repeats, conditions={**cell.conditions, PACE: paces})


def paces_of(conditions: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the speeds before and after each run of a cell; none if an earlier version measured
    it."""
    return tuple(float(pace) for pace in conditions.get(PACE) or ())


def drift(paces: Iterable[float]) -> float:
    """Return the largest divided by the smallest time, minus 1; NaN for fewer than two."""
    found = [pace for pace in paces if pace > 0.0]
    return max(found) / min(found) - 1.0 if len(found) > 1 else math.nan
