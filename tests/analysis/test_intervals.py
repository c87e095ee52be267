from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.analysis.intervals import as_percent_change, ratio, reciprocal, scaled
from shardwise.errors import InputError
from shardwise.evidence.record import Interval

positive = st.floats(1e-3, 1e3)
widths = st.floats(1.0, 3.0)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    value = draw(positive)
    return Interval(value, value / draw(widths), value * draw(widths))


def test_independent_relative_errors_add_in_quadrature() -> None:
    # after 2 x/÷ 1.3, before 1 x/÷ 1.4: log-width sqrt(ln(1.3)^2 + ln(1.4)^2)
    #   = sqrt(0.06884 + 0.11321) = 0.42668; exp(0.42668) = 1.53216
    got = ratio(Interval(2.0, 2 / 1.3, 2 * 1.3), Interval(1.0, 1 / 1.4, 1.4))
    assert got.value == 2.0
    assert got.hi == pytest.approx(2 * 1.53216, rel=1e-4)
    assert got.lo == pytest.approx(2 / 1.53216, rel=1e-4)


def test_the_upper_bound_takes_the_lower_width_of_the_cell_before() -> None:
    # only `before` is uncertain, and only downwards (1 to 0.5): the ratio can only rise, to 2 / 0.5
    got = ratio(Interval(2.0, 2.0, 2.0), Interval(1.0, 0.5, 1.0))
    assert (got.lo, got.value, got.hi) == pytest.approx((2.0, 2.0, 4.0))


def test_fully_shared_symmetric_errors_cancel() -> None:
    got = ratio(Interval(2.0, 2 / 1.5, 3.0), Interval(1.0, 1 / 1.5, 1.5), rho=1.0)
    assert (got.lo, got.hi) == pytest.approx((2.0, 2.0))


def test_half_correlated_errors() -> None:
    # equal widths w: sqrt(w^2 + w^2 - 2 * 0.5 * w * w) = w, so the ratio is as wide as a cell
    got = ratio(Interval(2.0, 1.6, 2.5), Interval(1.0, 0.8, 1.25), rho=0.5)
    assert (got.lo, got.hi) == pytest.approx((1.6, 2.5))


def test_n_of_a_ratio_is_the_smaller() -> None:
    assert ratio(Interval(1, 1, 1, n=30), Interval(1, 1, 1, n=9)).n == 9


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_a_correlation_outside_0_to_1_is_refused(rho: float) -> None:
    with pytest.raises(InputError, match="rho"):
        ratio(Interval(1, 1, 1), Interval(1, 1, 1), rho)


@given(intervals(), intervals(), st.floats(0, 1))
def test_a_ratio_and_its_inverse_are_reciprocal_intervals(
    a: Interval, b: Interval, rho: float
) -> None:
    forth, back = ratio(a, b, rho), reciprocal(ratio(b, a, rho))
    assert (forth.lo, forth.value, forth.hi) == pytest.approx((back.lo, back.value, back.hi))


@given(intervals(), intervals(), st.floats(0, 1))
def test_correlation_never_widens(a: Interval, b: Interval, rho: float) -> None:
    narrow, wide = ratio(a, b, rho), ratio(a, b, 0.0)
    assert wide.lo <= narrow.lo * (1 + 1e-9)
    assert narrow.hi <= wide.hi * (1 + 1e-9)
    assert narrow.lo <= narrow.value <= narrow.hi


def test_scaled_and_percent() -> None:
    assert scaled(Interval(2, 1, 3, 7), 10) == Interval(20, 10, 30, 7)
    assert as_percent_change(Interval(1.5, 1.25, 2.0, 7)) == Interval(50, 25, 100, 7)
