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
    quantity,
    scale_for,
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


def test_one_of_several_numbers_of_a_sentence_has_a_spread_instead_of_bounds() -> None:
    assert brief(Interval(0.0123, 0.011, 0.0139), "s") == "12.3 ms ±13%"
    assert brief(Interval(2.0, 2.0, 2.0), "USD/Mtok") == "2.00 USD/Mtok"
