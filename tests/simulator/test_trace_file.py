"""Traces from files, and the lines that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwise.errors import InputError
from shardwise.simulator.trace_file import read_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_the_azure_format_is_read_with_its_seven_digit_fractions(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.4799600,110,27\n2023-11-16 18:17:03.9799600,4808,10\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 0.5])  # sorted, from the first
    assert trace.isl.tolist() == [4808, 110]
    assert trace.osl.tolist() == [10, 27]


def test_our_own_format_names_models_and_prefixes(tmp_path: Path) -> None:
    text = (
        "arrival_s,isl,osl,model,prefix,prefix_tokens\n"
        "0,100,5,a,sys,64\n1,100,5,b,,\n2,90,5,a,sys,64\n"
    )
    trace = read_trace(written(tmp_path, text))
    assert trace.models == ("a", "b")
    assert trace.model.tolist() == [0, 1, 0]
    assert trace.prefix.tolist() == [0, -1, 0]
    assert trace.prefix_tokens.tolist() == [64]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,5,5", r"line 3: arrival_s is 'x'; expected: seconds"),
        ("nan,5,5", r"line 3: arrival_s is 'nan'; expected: seconds"),
        ("1,5.5,5", r"line 3: isl is '5\.5'; expected: a whole number of tokens"),
        ("1,5,0", r"line 3: osl is 0; expected: a whole number of tokens, 1 to"),
        ("1,5", r"line 3: osl is ''; expected: a whole number of tokens"),
    ],
)
def test_a_malformed_line_is_named_with_what_was_expected(
    tmp_path: Path, row: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_trace(written(tmp_path, f"arrival_s,isl,osl\n0,5,5\n{row}\n"))


def test_files_that_hold_no_trace_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 0 requests"):
        read_trace(written(tmp_path, "arrival_s,isl,osl\n"))
    with pytest.raises(InputError, match=r"line 1: columns a, b; expected: TIMESTAMP"):
        read_trace(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(InputError, match="cannot read"):
        read_trace(tmp_path / "absent.csv")
