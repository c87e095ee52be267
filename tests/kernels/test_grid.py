"""Refined grids: the measured nodes stay, gaps are half an octave, straight lines stay straight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.kernels.grid import OCTAVES, columns_on, refined
from shardwise.kernels.provenance import Array

AXES = st.lists(st.integers(1, 1 << 20), min_size=1, max_size=8, unique=True).map(
    lambda found: np.array(sorted(found), dtype=np.float64)
)


@given(AXES)
def test_measured_nodes_stay_and_no_gap_is_wider_than_half_an_octave(
    axis: Array,
) -> None:
    grid = refined([axis])
    (fine,), (own,) = grid.axes, grid.is_measured
    assert fine[own].tolist() == axis.tolist()
    assert np.all(np.diff(np.log2(fine)) <= OCTAVES + 1e-6)
    assert np.all(np.diff(fine) > 0)


@given(AXES)
def test_weights_are_shares_of_the_two_neighbours(
    axis: Array,
) -> None:
    (weights,) = refined([axis]).weights
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert weights.min() >= -1e-9
    assert (np.abs(weights) > 1e-9).sum(axis=1).max() <= 2


@given(AXES, st.floats(-3, 3), st.floats(-5, 5))
def test_a_power_of_the_work_is_met_exactly(axis: Array, slope: float, start: float) -> None:
    grid = refined([axis])
    found = grid.refine(start + slope * np.log2(axis))
    expected = start + slope * np.log2(grid.axes[0])
    assert found == pytest.approx(expected, abs=1e-6)


def test_two_axes_are_refined_each_by_itself() -> None:
    # log2 of a product: 1 + 2 = 3 at (2, 4); half-way between 1 and 4 in log is 2
    grid = refined([np.array([1.0, 4.0]), np.array([1.0, 2.0, 4.0])])
    values = np.add.outer(np.log2([1.0, 4.0]), np.log2([1.0, 2.0, 4.0]))
    found = grid.refine(values)
    assert found.shape == tuple(map(len, grid.axes)) == (5, 5)
    assert found == pytest.approx(np.add.outer(*map(np.log2, grid.axes)))


def test_columns_broadcast_to_the_grid() -> None:
    one, two = columns_on([np.arange(3.0), np.arange(2.0)])
    assert (one.shape, two.shape) == ((3, 1), (1, 2))
    assert (one + two).shape == (3, 2)
