"""A layout's name, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.layout.deployment import Layout, layout_of

SIZES = st.integers(1, 64)


@given(SIZES, SIZES, SIZES, SIZES)
def test_a_name_is_read_back_as_the_same_layout(tp: int, pp: int, ep: int, dp: int) -> None:
    layout = Layout(tp, pp, ep, dp)
    assert layout_of(layout.name) == layout
    assert layout_of(layout.name.replace(" ", "").lower()) == layout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("TP8xTP2", "has TP twice"),
        ("", "allowed: as in TP8"),
        ("TP0", "allowed: as in TP8"),
        ("XP8", "allowed: as in TP8"),
        ("TP8x", "allowed: as in TP8"),
    ],
)
def test_what_is_no_layout_is_refused_with_an_example(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        layout_of(given)
