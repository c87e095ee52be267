"""Interpolation, isotonic regression, refined grids and what a stored table loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.kernels import store
from shardwise.kernels.grid import refined
from shardwise.kernels.surface import filled, interpolate, rising

AXIS = np.array([1.0, 2.0, 16.0, 17.0, 100.0])
values = st.floats(-20, 2, allow_nan=False)


@given(st.lists(values, min_size=1, max_size=30))
def test_a_risen_curve_rises_and_keeps_its_mean(given_values: list[float]) -> None:
    curve = np.array(given_values)
    risen = rising(curve)
    assert (np.diff(risen) >= -1e-9).all()
    assert risen.mean() == pytest.approx(curve.mean(), abs=1e-9)


@given(st.lists(values, min_size=1, max_size=30))
def test_a_rising_curve_is_left_alone(given_values: list[float]) -> None:
    curve = np.sort(np.array(given_values))
    assert (rising(curve) == curve).all()


def test_one_fall_is_averaged() -> None:
    assert rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist() == [1.0, 2.5, 2.5, 4.0]


@given(st.lists(st.lists(values, min_size=4, max_size=4), min_size=2, max_size=8))
def test_a_surface_rises_along_both_axes(rows: list[list[float]]) -> None:
    risen = rising(np.array(rows))
    assert (np.diff(risen, axis=0) >= -1e-9).all()
    assert (np.diff(risen, axis=1) >= -1e-9).all()


def test_what_was_not_measured_has_its_neighbours_efficiency() -> None:
    ideal = np.array([[0.0, 1.0, 2.0, 3.0]])
    measured = np.array([[np.nan, 2.0, 2.5, np.nan]])
    assert filled(measured, ideal).tolist() == [[1.0, 2.0, 2.5, 3.5]]


def test_a_gap_is_filled_along_both_axes() -> None:
    """Along the rows, the missing corner is 3 above the curve, along the columns 1: 2."""
    curve = np.array([[[0.0, 1.0], [1.0, 2.0]]])
    above = np.array([[[0.0, 1.0], [3.0, np.nan]]])
    assert filled(curve + above, curve).tolist() == [[[0.0, 2.0], [4.0, 4.0]]]


@given(
    st.lists(values, min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12).filter(lambda known: sum(known) > 0),
)
def test_a_filled_gap_keeps_to_what_was_measured(numbers: list[float], known: list[bool]) -> None:
    """More work never takes less time, and measured values stay."""
    rising_ones = np.maximum.accumulate(np.sort(np.array(numbers)).reshape(1, 3, 4), axis=2)
    is_known = np.array(known).reshape(1, 3, 4)
    measured = np.where(is_known, rising_ones, np.nan)
    found = filled(measured, np.zeros_like(rising_ones))
    assert (found[is_known] == rising_ones[is_known]).all()
    for _, row, column in zip(*np.nonzero(is_known), strict=True):
        value = rising_ones[0, row, column]
        assert (found[0, row:, column:] >= value).all()
        assert (found[0, : row + 1, : column + 1] <= value).all()


def test_a_refined_grid_holds_the_measured_one_and_has_no_wide_gap() -> None:
    grid = refined([AXIS])
    assert np.isin(AXIS, grid.axes[0]).all()
    assert grid.axes[0][grid.is_measured[0]].tolist() == AXIS.tolist()
    assert np.diff(np.log2(grid.axes[0])).max() <= 0.5 + 1e-9
    assert grid.refine(np.log2(AXIS)) == pytest.approx(np.log2(grid.axes[0]))


@given(st.lists(st.floats(1, 100), min_size=1, max_size=9))
def test_a_power_law_is_interpolated_exactly(work: list[float]) -> None:
    grid = refined([AXIS, AXIS])
    nodes = 1.5 * np.log2(grid.axes[0])[:, None] + 0.5 * np.log2(grid.axes[1])[None, :]
    known = np.ones((1, *nodes.shape), dtype=np.bool_)
    at = np.array(work)
    found = interpolate(grid, nodes[None], known, 0, (at, at[::-1]))
    assert found.log2_seconds == pytest.approx(1.5 * np.log2(at) + 0.5 * np.log2(at[::-1]))


def test_beyond_the_grid_work_is_clamped() -> None:
    grid = refined([AXIS])
    nodes = np.log2(grid.axes[0])[None]
    known = np.ones(nodes.shape, dtype=np.bool_)
    found = interpolate(grid, nodes, known, 0, (np.array([0.5, 1e6]),))
    assert found.clamped[0].tolist() == [1.0, 100.0]
    assert found.log2_seconds == pytest.approx([0.0, np.log2(100)])


@given(st.lists(st.floats(1e-6, 4.0), min_size=1, max_size=20))
def test_a_stored_time_is_within_a_thousandth_of_an_octave(seconds: list[float]) -> None:
    logs = np.log2(np.array([seconds, seconds[::-1]]))
    codes = store.encode(logs)
    assert (store.unpack(store.pack(codes), codes.shape) == codes).all()
    assert np.abs(store.decode(codes) - logs).max() <= 0.5 / store.STEPS_PER_OCTAVE + 1e-12


def test_a_file_holds_its_tables(tmp_path: Path) -> None:
    tables = [
        store.Table(np.array([[8.0], [16.0]]), (AXIS,), np.log2(np.full((2, 5), seconds)))
        for seconds in (1e-5, 3e-3)
    ]
    tables[1].log2_seconds[0, 2] = np.nan
    store.write_file(tmp_path / "some.gpu.xz", tables)
    read = store.read_file(tmp_path / "some.gpu.xz")
    for one, other in zip(tables, read, strict=True):
        assert (one.shapes == other.shapes).all()
        assert (one.axes[0] == other.axes[0]).all()
        assert one.log2_seconds == pytest.approx(other.log2_seconds, abs=0.001, nan_ok=True)
