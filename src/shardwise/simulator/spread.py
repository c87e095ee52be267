"""Run-to-run variation of a mean or percentile, estimated from one run."""

from __future__ import annotations

import math

import numpy as np

from shardwise.simulator.trace import Floats

BLOCKS = 20  #: resampled blocks; long compared with a queue's memory
DRAWS = 200
LEAST = 2 * BLOCKS  #: requests


def run_spread(values: Floats, percentile: float | None = None) -> tuple[float, float]:
    """Return the range that contains the percentile (or mean) of 80 % of similar runs, from
    `values` in order of arrival.

    A moving-block bootstrap (Kuensch 1989): neighbouring requests are correlated, so whole blocks
    of the run are drawn with replacement. NaN for fewer than 40 values.
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
    """Combine intervals: log distances of the ends are added in quadrature. `beside` is the log
    half-width of errors outside steps and run."""
    if not (value > 0 and lo > 0):
        return lo, hi
    known = math.isfinite(run[0]) and run[0] > 0
    first, last = (math.log(run[0] / value), math.log(run[1] / value)) if known else (0.0, 0.0)
    below = math.hypot(math.log(value / lo), max(-first, 0.0), beside)
    above = math.hypot(math.log(hi / value), max(last, 0.0), beside)
    return value * math.exp(-below), value * math.exp(above)
