"""Find the steady part of a run from its token times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise.evidence.request import RequestRecord

Values = NDArray[np.float64]

BINS: Final = 60  #: number of bins of token counts over a run
_MSER_BATCH: Final = 5


def token_times(records: Sequence[RequestRecord]) -> Values:
    """Return arrival times of tokens of successful requests, ascending, on CLOCK_MONOTONIC."""
    times = [np.asarray(r.arrivals) for r in records if r.failure is None and len(r.arrivals)]
    return np.sort(np.concatenate(times)) if times else np.empty(0)


def mser(series: Values) -> int:
    """Return the number of first values of `series` to drop as warm-up.

    MSER-5: of the means of five values each, drop the number that minimizes the standard error of
    the rest, at most half. Source: White 1997, "An effective truncation heuristic for bias
    reduction in simulation output", Simulation 69(6).
    """
    batches = len(series) // _MSER_BATCH
    if batches < 4:
        return 0
    means = series[: batches * _MSER_BATCH].reshape(batches, _MSER_BATCH).mean(axis=1)
    candidates = range(batches // 2 + 1)
    errors = [float(np.var(means[d:])) / (batches - d) for d in candidates]
    return int(np.argmin(errors)) * _MSER_BATCH


def steady_window(records: Sequence[RequestRecord], concurrency: int | None) -> tuple[float, float]:
    """Return start and end of the steady part of a run.

    It begins where MSER finds the token rate steady. In a closed loop (`concurrency` given) it does
    not begin before the end of the first wave, whose requests were all prefilled together, and it
    lasts from the end of a request until `concurrency` more requests have ended, or twice as many,
    and so on, while all are in flight: requests of equal length stay in step, and a part of a wave
    has more or fewer tokens than the mean. In an open loop it ends with the origin of the last
    request. If a run is too short, the part from the first token to the end of load is used.
    """
    done = [r for r in records if r.failure is None and len(r.arrivals)]
    if not done:
        return (float("nan"), float("nan"))
    times = token_times(done)
    end = _load_ended(done, concurrency)
    if end <= times[0]:
        return (float(times[0]), float(times[-1]))
    edges = np.linspace(times[0], end, BINS + 1)
    start = float(edges[mser(np.histogram(times, edges)[0].astype(np.float64))])
    if concurrency is not None:
        start, end = _whole_waves(sorted(r.last_s for r in done), start, concurrency)
    if start >= end or not any(r.origin_s >= start and r.last_s <= end for r in done):
        start, end = float(times[0]), float(max(r.last_s for r in done))
    return (start, end)


def _load_ended(done: Sequence[RequestRecord], concurrency: int | None) -> float:
    if concurrency is None:
        return max(r.origin_s for r in done)
    ends = sorted(r.last_s for r in done)
    return ends[-concurrency] if concurrency <= len(ends) else ends[-1]


def _whole_waves(ends: Sequence[float], settled: float, concurrency: int) -> tuple[float, float]:
    """Return the ends of two requests, after the first wave and `settled`, with as many whole waves
    of ends between them as there are while all are in flight; equal if there is none."""
    first = max(concurrency - 1, bisect_left(ends, settled))
    last = len(ends) - concurrency - 1  # its successor is the last request to start
    waves = max(0, last - first) // concurrency
    begin = min(first, len(ends) - 1)
    return (ends[begin], ends[begin + waves * concurrency])


def inside(records: Sequence[RequestRecord], window: tuple[float, float]) -> list[RequestRecord]:
    """Return the successful requests that ended in the window, in order of their end.

    Only the end counts. If the start had to be in the window too, short requests would be
    preferred.
    """
    start, end = window
    found = [r for r in records if r.ok and start < r.last_s <= end]
    return sorted(found, key=lambda r: r.last_s)
