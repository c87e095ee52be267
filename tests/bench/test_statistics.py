"""Intervals hold what they promise, with numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.bench.statistics import (
    batch_means,
    mean_interval,
    narrow_enough,
    over_runs,
    percentiles,
    relative_half_width,
    t90,
)
from shardwise.evidence.record import Interval


def test_three_values_have_the_interval_of_student() -> None:
    # mean 2, standard deviation 1, t90 of 2 degrees 1.886: 1.886 x 1 / sqrt 3 = 1.0889
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.n) == (2.0, 3)
    assert found.hi - found.value == pytest.approx(1.0889, abs=1e-4)
    assert found.value - found.lo == pytest.approx(1.0889, abs=1e-4)


def test_one_value_says_nothing_of_its_spread() -> None:
    found = mean_interval(np.array([5.0]))
    assert (found.lo, found.hi) == (0.5, 50.0)
    assert mean_interval(np.array([1.0, 100.0])).lo > 0


def test_t_falls_towards_the_normal() -> None:
    assert t90(1) > t90(2) > t90(30) > t90(31) == t90(10_000) == 1.282


def test_batches_are_consecutive_parts() -> None:
    assert batch_means(np.arange(8.0), 4).tolist() == [0.5, 2.5, 4.5, 6.5]
    assert batch_means(np.array([1.0, 3.0]), 8).tolist() == [1.0, 3.0]


def test_three_runs_vary_as_runs_and_two_as_their_batches() -> None:
    runs = [np.full(100, v) for v in (1.0, 2.0, 3.0)]
    assert over_runs(runs) == Interval(
        2.0, mean_interval(np.array([1.0, 2, 3])).lo, mean_interval(np.array([1.0, 2, 3])).hi, 300
    )
    # two runs: 8 batches each, of 1 and of 2: standard deviation 0.5164, t90(15) 1.341, n 16
    two = over_runs(runs[:2])
    assert two.hi - two.value == pytest.approx(1.341 * 0.5164 / 4, abs=1e-4)


def test_percentiles_come_with_n() -> None:
    found = percentiles(np.arange(1.0, 102.0))
    assert found == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "n": 101.0}


def test_narrow_enough_asks_every_metric_that_was_measured() -> None:
    narrow, wide = Interval(10.0, 9.8, 10.2, 5), Interval(10.0, 8.0, 12.0, 5)
    assert relative_half_width(narrow) == pytest.approx(0.02)
    assert narrow_enough({"a": narrow}, ("a", "b"), 0.05)
    assert not narrow_enough({"a": narrow, "b": wide}, ("a", "b"), 0.05)
    assert not narrow_enough({}, ("a",), 0.05)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(3, 40), seed=st.integers(0, 2**16))
def test_an_80_percent_interval_covers_the_truth_80_percent_of_the_time(
    count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    trials = rng.normal(3.0, 1.0, (2000, count))
    found = [mean_interval(row) for row in trials]
    covered = np.mean([i.lo <= 3.0 <= i.hi for i in found])
    # 2,000 trials: standard error sqrt(0.8 x 0.2 / 2000) = 0.9 points; five of them
    assert covered == pytest.approx(0.8, abs=0.045)
