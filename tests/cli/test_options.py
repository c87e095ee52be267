"""Options that several commands share: times with their unit, and lists of sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.cli.options import Duration, duration_s, sizes
from shardwise.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200ms", 0.2), ("2s", 2.0), ("1.5 s", 1.5), ("10m", 600.0), ("10min", 600.0), ("1h", 3600.0)],
)
def test_a_time_with_its_unit_is_in_seconds(text: str, expected: float) -> None:
    assert duration_s(text, "--ttft") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "x", "-1s", "nan", "inf", "2", "200", "1 day"])
def test_a_time_without_a_unit_is_refused_with_the_ways_to_write_it(text: str) -> None:
    with pytest.raises(InputError, match=r"a time with a unit, e\.g\. 200ms, 2s, 10m or 1h") as got:
        duration_s(text, "--ttft")
    assert got.value.field == "--ttft"


def test_zero_needs_no_unit_where_it_is_allowed() -> None:
    assert Duration(above_0=False).convert("0", None, None) == 0.0
    with pytest.raises(InputError, match="above 0"):
        Duration().convert("0s", None, None)


@given(st.lists(st.integers(1, 10**9 - 1), min_size=1, max_size=64))
def test_sizes_are_sorted_and_each_is_there_once(values: list[int]) -> None:
    found = sizes(",".join(map(str, values)), "--tp")
    assert found == tuple(sorted(set(values)))
