"""How far a mean or percentile of one run would be from another's, told from the run itself."""

from __future__ import annotations

import math

import numpy as np

from shardwise.simulator.trace import Floats

BLOCKS = 20  #: stretches of the run that are drawn anew; long against the time a queue remembers
DRAWS = 200
LEAST = 2 * BLOCKS  #: requests


def run_spread(values: Floats, percentile: float | None = None) -> tuple[float, float]:
    """Range that 80 % of like runs have their percentile in, or their mean, from `values` in order
    of arrival.

    A moving-block bootstrap (Kuensch 1989): requests that come together are slow together, so
    whole stretches of the run are drawn with replacement. NaN for fewer than 40 values.
    """
    n = len(values)
    if n < LEAST:
        return math.nan, math.nan
    length = n // BLOCKS
    order = np.argsort(values, kind="stable")
    rng = np.random.default_rng(0)
    starts = rng.integers(0, n - length + 1, (DRAWS, BLOCKS))
    if percentile is None:
        upto = np.concatenate([[0.0], np.cumsum(values)])
        found = (upto[starts + length] - upto[starts]).sum(axis=1) / (BLOCKS * length)
        lo, hi = np.percentile(found, [10, 90])
        return float(lo), float(hi)
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        weight = np.zeros(n + 1)
        np.add.at(weight, starts[draw], 1.0)
        np.add.at(weight, starts[draw] + length, -1.0)
        heap = np.cumsum(np.cumsum(weight)[:-1][order])
        found[draw] = values[order[np.searchsorted(heap, percentile / 100.0 * heap[-1])]]
    lo, hi = np.percentile(found, [10, 90])
    return float(lo), float(hi)


def widened(
    value: float, lo: float, hi: float, run: tuple[float, float], beside: float = 0.0
) -> tuple[float, float]:
    """An interval for all causes: distances of the ends, as ratios, added in quadrature. `beside`
    is the log half-width of what neither the steps nor the run hold."""
    if not (value > 0 and lo > 0):
        return lo, hi
    known = math.isfinite(run[0]) and run[0] > 0
    first, last = (math.log(run[0] / value), math.log(run[1] / value)) if known else (0.0, 0.0)
    below = math.hypot(math.log(value / lo), max(-first, 0.0), beside)
    above = math.hypot(math.log(hi / value), max(last, 0.0), beside)
    return value * math.exp(-below), value * math.exp(above)
