"""The spread of a percentile from run to run, told from one run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shardwise.simulator.spread import run_spread, widened


def correlated(seed: int, n: int = 4000) -> np.ndarray:
    """Latencies that remember the last twenty or so, as those of a queue do."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n)
    found = np.zeros(n)
    for i in range(1, n):
        found[i] = 0.95 * found[i - 1] + noise[i]
    return np.exp(0.2 * found)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0])
def test_four_of_five_other_runs_lie_in_the_range_that_one_run_tells(percentile: float) -> None:
    truth = float(np.median([np.percentile(correlated(s), percentile) for s in range(200, 240)]))
    ranges = [run_spread(correlated(seed), percentile) for seed in range(40)]
    covered = sum(lo <= truth <= hi for lo, hi in ranges)
    assert 26 <= covered <= 38  # of 40; 32 are meant


def test_few_requests_tell_no_spread() -> None:
    assert all(math.isnan(x) for x in run_spread(np.ones(39), 99.0))
    assert run_spread(np.ones(40), 99.0) == (1.0, 1.0)


def test_distances_add_in_quadrature_as_ratios() -> None:
    lo, hi = widened(1.0, math.exp(-0.3), math.exp(0.3), (math.exp(-0.4), math.exp(0.4)))
    assert (lo, hi) == pytest.approx((math.exp(-0.5), math.exp(0.5)))
    assert widened(1.0, 0.5, 2.0, (math.nan, math.nan)) == pytest.approx((0.5, 2.0))
    lo, hi = widened(1.0, math.exp(-0.3), math.exp(0.3), (math.nan, math.nan), 0.4)
    assert (lo, hi) == pytest.approx((math.exp(-0.5), math.exp(0.5)))
