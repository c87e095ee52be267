"""Widths of intervals, from errors that a fit did not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.perfmodel.build import crossed_pct
from shardwise.perfmodel.intervals import (
    QUEUED,
    Distance,
    group_quantile,
    quantile,
    width_name,
    width_of,
)
from shardwise.perfmodel.knowledge import Unseen

WIDTHS = {
    "row/dense/tpot_s": 0.06,
    "layout/dense/tpot_s": 0.08,
    "gpu/dense/tpot_s": 0.10,
    "family/dense/tpot_s": 0.10,
    "kernels/dense/tpot_s": 0.14,
}


def test_the_quantile_covers_four_of_five_and_the_row_to_come() -> None:
    # ceil(0.8 x (9 + 1)) = 8: the eighth of nine errors by size
    assert quantile([0.1, -0.2, 0.3, -0.4, 0.5, 0.6, -0.7, 0.8, 0.9]) == pytest.approx(0.8)
    assert quantile([0.1]) == pytest.approx(0.1)


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200))
def test_four_fifths_of_the_errors_lie_within_their_own_quantile(errors: list[float]) -> None:
    assert np.mean(np.abs(errors) <= quantile(errors)) >= 0.8


def test_what_was_not_seen_widens_and_two_such_things_more_than_one() -> None:
    near = width_of(WIDTHS, Distance((), False), "tpot_s")
    gpu = width_of(WIDTHS, Distance(("gpu",), False), "tpot_s")
    both = width_of(WIDTHS, Distance(("gpu", "family"), False), "tpot_s")
    assert near == pytest.approx(0.06)
    assert gpu == pytest.approx(0.10)
    # errors beyond those of a known place add up as independent ones:
    # sqrt(0.06^2 + 2 x (0.10^2 - 0.06^2)) = sqrt(0.0164) = 0.128
    assert both == pytest.approx(0.128, abs=1e-3)


def test_what_is_new_in_more_ways_is_never_surer() -> None:
    seen: list[Unseen] = []
    before = 0.0
    for more in ("gpu", "engine", "family", "layout"):
        seen.append(more)
        width = width_of(WIDTHS, Distance(tuple(seen), False), "tpot_s")
        assert width > before
        before = width


def test_a_large_group_counts_for_less_than_its_rows_and_the_other_kind_as_one_group() -> None:
    # four groups of 400, 25, 25 and 25 rows weigh 20, 5, 5 and 5 of 35: 25 of 35 is 71 %
    own = {"a": [0.1] * 400, "b": [0.2] * 25, "c": [0.3] * 25, "d": [0.4] * 25}
    assert group_quantile(own, {}) == pytest.approx(0.3)
    assert quantile([e for some in own.values() for e in some]) == pytest.approx(0.1)
    # one group: the other kind weighs as much as it does, and four fifths reach into its errors
    assert group_quantile({"a": [0.1] * 100}, {}) == pytest.approx(0.1)
    assert group_quantile({"a": [0.1] * 100}, {"m": [0.5] * 10}) == pytest.approx(0.5)
    # one row alone weighs little
    assert group_quantile({"a": [0.1] * 100, "b": [0.9]}, {}) == pytest.approx(0.1)
    # one group: the level is 0.8 + 0.2 x 0.3 instead of 0.8 for TTFT
    ranks = {"a": [n / 100 for n in range(1, 101)]}
    assert group_quantile(ranks, {}) == pytest.approx(0.8)
    assert group_quantile(ranks, {}, "ttft_s") == pytest.approx(0.86)


def test_queued_runs_of_the_other_kind_count_only_if_there_are_no_own() -> None:
    own, other = {"a": [0.1] * 10}, {"m": [0.5] * 10}
    assert group_quantile(own, other, "tpot_s") == pytest.approx(0.5)
    assert group_quantile(own, other, "queued_tok_s") == pytest.approx(0.1)
    assert group_quantile({}, other, "queued_tok_s") == pytest.approx(0.5)


def test_no_error_of_a_group_is_in_the_width_that_judges_it() -> None:
    own = {"a": [0.1] * 50, "b": [0.1] * 50, "c": [9.0] * 50}
    # a and b are judged by widths that c reaches into; c by 0.1
    assert crossed_pct("tpot_s", own, {}) == pytest.approx(100 * 2 / 3, abs=0.1)
    assert crossed_pct("tpot_s", {"a": [0.1]}, {"a": [0.2]}) is None


def test_throughput_and_cost_share_a_width_and_a_queued_run_has_its_own() -> None:
    for metric in ("output_tok_s", "total_tok_s", "usd_per_million_output_tok"):
        assert width_name(metric) == "output_tok_s"
        assert width_name(metric, "max_throughput") == QUEUED
    assert width_name("tpot_s", "max_throughput") == "tpot_s"
