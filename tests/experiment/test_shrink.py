"""Apply the share of a correction that held-out cells support, and none that is chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.experiment.shrink import Trust, half_width, shrunk, trust
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload

errors = st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=30)


def _evidence(value: float, width: float = 0.2) -> Evidence:
    interval = Interval(value, value / (1 + width), value * (1 + width), 0)
    return Evidence(
        Deployment(
            model="m",
            gpu="cpu",
            layout=Layout(tp_size=1),
        ),
        Workload(8, 8, 1),
        {"ttft_s": interval},
        Source("predicted", "t"),
    )


def test_a_correction_that_takes_the_error_away_is_applied_whole() -> None:
    found = trust([0.5] * 10, [0.01, -0.02] * 5)
    assert found.share == 1.0
    assert found.n == 10


def test_a_correction_that_makes_it_worse_is_not_applied() -> None:
    assert trust([0.05, -0.04] * 5, [0.3, -0.3] * 5).share == 0.0


def test_one_that_goes_too_far_is_applied_in_part() -> None:
    # +0.4 becomes -0.4: half-way, nothing is left
    assert trust([0.4] * 8, [-0.4] * 8).share == pytest.approx(0.5)


def test_a_gain_that_could_be_chance_is_no_gain() -> None:
    # better by 1.0 once and worse by 0.1 nine times: a mean gain of 0.01 +- 0.11
    assert trust([1.0] + [0.0] * 9, [0.0] + [0.1] * 9).share == 0.0
    assert trust([0.5, 0.5], [0.0, 0.0]).share == 0.0


@given(errors, st.data())
def test_on_the_cells_left_out_it_is_never_worse_than_no_correction(
    before: list[float], data: st.DataObject
) -> None:
    after = data.draw(st.lists(st.floats(-2, 2), min_size=len(before), max_size=len(before)))
    share = trust(before, after).share
    old, new = np.array(before), np.array(after)
    assert np.abs((1 - share) * old + share * new).mean() <= np.abs(old).mean() + 1e-12


def test_the_interval_is_the_errors_own_by_rank() -> None:
    # ceil(0.8 x 11) = 9: the ninth of ten
    assert half_width(np.arange(1, 11) / 10.0) == pytest.approx(0.9)
    assert math.isinf(half_width(np.array([0.1, 0.2, 0.3])))
    assert half_width(np.array([0.1, -0.4, 0.3, 0.2])) == pytest.approx(0.4)


def test_the_interval_holds_a_further_error_eight_times_in_ten() -> None:
    drawn = np.random.default_rng(0).laplace(size=(4000, 12))
    held = [abs(row[-1]) <= half_width(row[:-1]) for row in drawn]
    assert 0.8 <= np.mean(held) <= 0.86  # 10 of 12 ranks: 0.833


def test_a_prediction_moves_by_the_share_on_a_log_scale() -> None:
    known = {"ttft_s": Trust(0.5, math.log(1.5), 8)}
    found = shrunk(_evidence(1.0), _evidence(4.0), known).metrics["ttft_s"]
    assert found.value == pytest.approx(2.0)
    assert found.lo == pytest.approx(2.0 / 1.5)
    assert found.hi == pytest.approx(3.0)


def test_what_nothing_is_known_of_stays_as_it_was() -> None:
    found = shrunk(_evidence(1.0), _evidence(4.0), {}).metrics["ttft_s"]
    assert found == _evidence(1.0).metrics["ttft_s"]
