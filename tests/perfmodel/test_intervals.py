"""Widths of intervals, from errors that a fit did not see."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.perfmodel.intervals import HeldOut, coverage_pct


def test_coverage_judges_each_fold_by_the_others() -> None:
    folds = [
        HeldOut("tp_inside", "h200", "vllm", "tpot_s", np.array(errors))
        for errors in ([0.1, -0.2], [0.1, 0.2], [-0.1, 0.9])
    ]
    # without the first or second fold the 80th percentile is 0.2 + 0.4 x 0.7 = 0.48: both rows in;
    # without the third it is 0.2: 0.1 in, 0.9 out; 5 of 6
    assert coverage_pct(folds) == pytest.approx(100 * 5 / 6)
    assert coverage_pct(folds[:2]) is None
