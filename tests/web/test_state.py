from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from shardwise.web.state import State, StateError, parse_state, written


def test_an_empty_address_is_the_default_state() -> None:
    assert parse_state({}) == State()


def test_a_state_written_into_an_address_comes_back_the_same() -> None:
    state = State(
        model="qwen3-32b", gpu="h200", isl=777, batch=3, tpot=12.5, layout="TP4 x EP4",
        vs_gpu=("b200", "mi355x"), vs_model=("qwen3-14b",),
    )  # fmt: skip
    assert parse_state(written(state)) == state
    assert parse_state(written(State())) == State()


def test_every_bad_field_is_named_at_once_with_what_is_allowed() -> None:
    with pytest.raises(StateError) as caught:
        parse_state({"isl": "many", "batch": "0", "dtype": "fp7", "price": "-1"})
    assert set(caught.value.problems) == {"isl", "batch", "dtype", "price"}
    assert caught.value.problems["batch"] == "'0'; allowed: a whole number from 1 to 4,096"


def test_a_bad_value_of_ten_thousand_characters_makes_a_short_message() -> None:
    with pytest.raises(StateError) as caught:
        parse_state({"engine": "x" * 10_000})
    assert len(caught.value.problems["engine"]) < 200


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1e999", "²"])
def test_amounts_are_finite_numbers_from_zero(text: str) -> None:
    with pytest.raises(StateError):
        parse_state({"tpot": text})


@given(st.dictionaries(st.sampled_from([f.name for f in fields(State)]), st.text(max_size=50)))
def test_any_address_gives_a_state_or_problems_at_known_fields(query: dict[str, Any]) -> None:
    problems: dict[str, str] = {}
    try:
        parse_state(query)
    except StateError as error:
        problems = error.problems
    assert set(problems) <= set(query)
