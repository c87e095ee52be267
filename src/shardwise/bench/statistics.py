"""Intervals for measured values: Student's t over repeats, or over batches of one run.

Every interval in Shardwise is an 80 % interval, so that measured and predicted ones are
comparable; a difference of two cells combines theirs (analysis.transitions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise.evidence.record import Interval

Values = NDArray[np.float64]

#: 90th percentile of Student's t by degrees of freedom, then of the normal distribution: bounds of
#: an 80 % interval. Source: NIST/SEMATECH e-Handbook, table 1.3.6.7.2.
_T90: Final = (
    *(3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372),
    *(1.363, 1.356, 1.350, 1.345, 1.341, 1.337, 1.333, 1.330, 1.328, 1.325),
    *(1.323, 1.321, 1.319, 1.318, 1.316, 1.315, 1.314, 1.313, 1.311, 1.310),
)
_NORMAL90: Final = 1.282
BATCHES: Final = 8  #: of one run; with fewer than ten, each is longer than the correlation time
UNKNOWN: Final = 10.0  #: factor of an interval of unknown width
PERCENTILES: Final = (50, 90, 99)


def t90(degrees: int) -> float:
    """Return the 90th percentile of Student's t for `degrees` of at least 1."""
    return _T90[degrees - 1] if degrees <= len(_T90) else _NORMAL90


def mean_interval(values: Values, n: int = 0) -> Interval:
    """Return the mean of independent values with its 80 % interval.

    `n` is the number of samples behind the values; 0 means one each. The variation of a single
    value is unknown, so its interval is a factor of ten. All metrics are positive, so an interval
    that would reach zero is expressed as a factor instead.
    """
    count = len(values)
    mean = float(values.mean())
    if count < 2:
        return Interval(mean, mean / UNKNOWN, mean * UNKNOWN, n or count)
    half = t90(count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    low = mean - half if half < mean else mean / (1.0 + half / mean)
    return Interval(mean, low, mean + half, n or count)


def batch_means(values: Values, batches: int = BATCHES) -> Values:
    """Return the means of `batches` consecutive parts of one run, in order of time.

    Consecutive requests share a queue and a batch, so they are correlated. Means of long parts are
    almost uncorrelated (Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3).
    """
    count = min(batches, len(values))
    return np.array([part.mean() for part in np.array_split(values, count)])


def over_runs(runs: Sequence[Values]) -> Interval:
    """Return the mean of a metric over repeated runs, each a series in order of time.

    With three or more runs, the interval comes from the variation between runs, which includes
    restarts. With fewer, it comes from batches of each run.
    """
    runs = [run for run in runs if len(run)]
    n = sum(len(run) for run in runs)
    if len(runs) >= 3:
        return mean_interval(np.array([run.mean() for run in runs]), n)
    return mean_interval(np.concatenate([batch_means(run) for run in runs]), n)


def percentiles(values: Values) -> dict[str, float]:
    """Return percentiles by name, and n. Interpolated linearly, as NumPy does by default."""
    found = {f"p{q}": float(np.percentile(values, q)) for q in PERCENTILES}
    return {**found, "n": float(len(values))}


def relative_half_width(interval: Interval) -> float:
    """Return half the interval's width relative to the value."""
    return (interval.hi - interval.lo) / 2.0 / abs(interval.value)


def narrow_enough(metrics: Mapping[str, Interval], names: Sequence[str], target: float) -> bool:
    """Return whether the relative half-width of each named, measured metric is within `target`."""
    known = [metrics[name] for name in names if name in metrics]
    return bool(known) and all(relative_half_width(each) <= target for each in known)
