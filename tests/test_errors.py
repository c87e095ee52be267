"""Errors are one line, carry their field, and suggest what was meant; units are converted once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import (
    DoesNotFitError,
    InputError,
    NothingMeetsError,
    ShardwiseError,
    UnknownNameError,
    printable,
)
from shardwise.units import UNITS, to_si


@given(st.text(), st.text(), st.text())
def test_whatever_is_given_the_message_is_one_line(what: str, allowed: str, remedy: str) -> None:
    assert len(str(InputError(what, allowed, remedy)).splitlines()) <= 1


def test_what_is_allowed_and_what_to_do_follow_what_was_given() -> None:
    error = InputError("isl is 0", "allowed: 1 or more", "give --isl", field="isl")
    assert str(error) == "isl is 0; allowed: 1 or more; give --isl"
    assert error.field == "isl"
    assert str(InputError("isl is 0", remedy="give --isl")) == "isl is 0; give --isl"


def test_a_near_name_is_suggested_and_else_all_are_listed() -> None:
    assert str(UnknownNameError("gpu", "h201", ["h200", "mi300x"])) == (
        "unknown gpu 'h201'; did you mean h200?"
    )
    assert str(UnknownNameError("gpu", "zz", ["h200", "b200"])) == (
        "unknown gpu 'zz'; known: b200, h200"
    )
    assert UnknownNameError("GPU", "zz", []).field == "gpu"
    assert UnknownNameError("GPU", "zz", [], field="vs_gpu").field == "vs_gpu"


def test_a_long_name_is_cut_where_it_is_repeated() -> None:
    assert len(str(UnknownNameError("model", "x" * 10_000, ["llama"]))) < 200


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("x"), 2), (DoesNotFitError("x"), 2), (NothingMeetsError("x"), 3)],
)
def test_exit_codes(error: ShardwiseError, code: int) -> None:
    assert error.exit_code == code


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.isprintable() or any(ord(c) >= 0xE000 or not c.isprintable() for c in shown)


@given(st.text(min_size=1), st.integers(2, 40))
def test_a_text_that_is_cut_is_no_longer_than_asked_and_says_so(text: str, most: int) -> None:
    shown = printable(text, most)
    assert len(shown) <= most
    assert shown.endswith("…") or shown == printable(text)


@pytest.mark.parametrize(
    ("value", "unit", "measures", "expected"),
    [
        (80, "GB", "bytes", 80e9),
        (80, "GiB", "bytes", 85_899_345_920),
        (4.8, "TB/s", "bytes_per_s", 4.8e12),
        (989.4, "TFLOPS", "flops", 989.4e12),
        (3, "us", "seconds", 3e-6),
        (700, "W", "watts", 700),
    ],
)
def test_a_value_with_its_unit_is_si(
    value: float, unit: str, measures: str, expected: float
) -> None:
    assert to_si(value, unit, measures, "here") == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["GBit/s", "gb", "", "TFLOPS"])
def test_a_unit_of_another_quantity_is_refused_with_those_that_fit(unit: str) -> None:
    with pytest.raises(InputError, match=r"memory: unit .*; allowed: B, MB, GB, TB, MiB, GiB"):
        to_si(1.0, unit, "bytes", "memory")


@given(st.sampled_from(sorted(UNITS)), st.floats(0, 1e6), st.floats(0, 1e6))
def test_conversion_keeps_the_order_of_values(unit: str, a: float, b: float) -> None:
    measures, _ = UNITS[unit]
    found = [to_si(value, unit, measures, "here") for value in sorted((a, b))]
    assert found == sorted(found)
