"""Files in the form of ShareGPT give first turns, with the length of the reply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardwise.bench.sharegpt import Turn, read_sharegpt, sharegpt_prompts
from shardwise.errors import InputError


def _talk(*said: tuple[str, str]) -> dict[str, object]:
    return {"id": "1", "conversations": [{"from": who, "value": text} for who, text in said]}


TALKS = [
    _talk(("human", "one"), ("gpt", "a b c"), ("human", "again")),
    _talk(("gpt", "unasked"), ("human", "two")),
    _talk(("user", "three")),
    _talk(("human", "  "), ("gpt", "nothing was asked")),
    {"conversations": []},
]


@pytest.mark.parametrize("lines", [False, True])
def test_first_turns_by_people_are_kept(tmp_path: Path, lines: bool) -> None:
    file = tmp_path / "talks"
    file.write_text("\n".join(json.dumps(t) for t in TALKS) if lines else json.dumps(TALKS))
    assert read_sharegpt(file) == [Turn("one", "a b c"), Turn("three", "")]


def test_replies_give_the_output_length_unless_one_is_given() -> None:
    turns = [Turn("one", "a b c"), Turn("two", ""), Turn("three", "d")]
    counted = sharegpt_prompts(turns, 4, 0, count=lambda text: len(text.split()))
    assert sorted(set(counted)) == [("one", 3), ("three", 1)]
    assert len(counted) == 4
    fixed = sharegpt_prompts(turns, 3, 0, osl=9)
    assert sorted(fixed) == [("one", 9), ("three", 9), ("two", 9)]
    with pytest.raises(InputError, match="pass --osl, or a tokenizer"):
        sharegpt_prompts(turns, 3, 0)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", "[1]", '[{"conversations": 7}]', '[{"conversations": [{}]}]']
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "talks"
    file.write_text(text)
    with pytest.raises(InputError, match=r"allowed: .*conversations"):
        read_sharegpt(file)
