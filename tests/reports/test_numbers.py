from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.evidence.record import Interval
from shardwise.reports.numbers import (
    Scale,
    brief,
    number,
    percent,
    percent_interval,
    point_spread,
    quantity,
    scale_for,
    spread,
    value_and_bounds,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0123456, "0.0123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.4, "123"),
        (15828.4, "15,828"),
        (0.0, "0"),
        (-4.567, "-4.57"),
        # what rounds up to the next power of ten has no fourth digit
        (9.996, "10.0"),
        (99.96, "100"),
        (0.9996, "1.00"),
        (999.6, "1,000"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers_have_three_significant_digits_and_grouped_thousands(
    value: float | None, shown: str
) -> None:
    assert number(value) == shown


@given(st.floats(1e-6, 99.0))
def test_a_shown_number_is_within_half_a_percent_of_the_value(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=0.0051)


def test_a_column_of_seconds_takes_the_unit_of_its_largest_value() -> None:
    assert scale_for([0.002, 0.9], "s") == Scale("ms", 1e-3)
    assert scale_for([0.002, 1.1], "s") == Scale("s", 1.0)
    assert scale_for([Interval(3e-6, 2e-6, 4e-6), None], "s") == Scale("µs", 1e-6)
    assert scale_for([3e-9], "s") == Scale("µs", 1e-6)
    assert scale_for([], "s") == Scale("s", 1.0)


def test_bytes_are_gigabytes_and_other_units_stay() -> None:
    assert scale_for([80e9], "bytes") == Scale("GB", 1e9)
    assert scale_for([5.0], "tok/s") == Scale("tok/s")


def test_bounds_have_the_decimals_of_the_value() -> None:
    assert value_and_bounds(Interval(12.34, 9.876, 100.04)) == ("12.3", "(9.9–100.0)")
    assert value_and_bounds(Interval(0.0123, 0.01, 0.02), Scale("ms", 1e-3)) == (
        "12.3",
        "(10.0–20.0)",
    )


def test_an_exact_value_has_no_bounds_and_a_missing_one_is_a_dash() -> None:
    assert value_and_bounds(Interval(2.0, 2.0, 2.0)) == ("2.00", "")
    assert value_and_bounds(None) == ("–", "")


def test_a_quantity_in_a_sentence_carries_unit_interval_and_n() -> None:
    assert quantity(Interval(0.0123, 0.011, 0.0139, 40), "s") == (
        "12.3 ms (80 % interval 11.0–13.9 ms, n=40)"
    )
    assert quantity(Interval(2.0, 2.0, 2.0), "s") == "2.00 s"


def test_percent_changes_are_signed_and_their_bounds_have_no_dash() -> None:
    assert percent(-33.52) == "-33.5"
    assert percent(31.04) == "+31.0"
    assert percent(31.04, signed=False) == "31.0"
    assert percent_interval(Interval(-33.5, -36, -31)) == "(-36.0…-31.0)"
    assert percent_interval(Interval(-33.5, -33.5, -33.5)) == ""


@given(st.floats(1e-6, 9.99e5).filter(bool))
def test_a_number_below_a_thousand_has_exactly_three_significant_digits(value: float) -> None:
    digits = number(value).replace(",", "").replace(".", "").lstrip("0")
    assert len(digits) == max(3, len(f"{value:.0f}"))
    assert number(-value) == f"-{number(value)}"


def test_percent_has_no_decimals_from_100_up_and_no_minus_before_nothing() -> None:
    assert percent(99.94) == "+99.9"
    assert percent(99.96) == "+100"
    assert percent(1234.5) == "+1,234"
    assert percent(-0.04) == "+0.0"
    assert percent(-0.04, signed=False) == "0.0"
    assert percent(-0.2, 0) == "+0"
    assert percent(None) == percent(float("nan")) == "–"


def test_a_spread_is_the_wider_side_as_a_share_or_in_the_value_s_own_unit() -> None:
    assert spread(Interval(100.0, 95.0, 112.0)) == "±12%"
    assert spread(Interval(100.0, 99.7, 100.5)) == "±0.5%"  # below 1 % with a decimal
    assert spread(Interval(0.0, -1.0, 1.0)) == ""  # no share of nothing
    assert spread(Interval(5.0, 5.0, 5.0)) == spread(None) == ""
    assert point_spread(Interval(-33.5, -36.0, -31.2)) == "±2.5"
    assert point_spread(Interval(250.0, 240.0, 262.4)) == "±12"
    assert point_spread(Interval(0.11, 0.06, 0.67), 2) == "±0.56"
    assert point_spread(Interval(1.0, 1.0, 1.0)) == ""


def test_one_of_several_numbers_of_a_sentence_has_a_spread_instead_of_bounds() -> None:
    assert brief(Interval(0.0123, 0.011, 0.0139), "s") == "12.3 ms ±13%"
    assert brief(Interval(2.0, 2.0, 2.0), "USD/Mtok") == "2.00 USD/Mtok"
