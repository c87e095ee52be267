"""Due times are those asked for, and a trace says where it is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardwise.bench.arrivals import constant, poisson, read_trace
from shardwise.errors import InputError


def test_constant_arrivals_are_evenly_apart() -> None:
    assert constant(4.0, 5).due_s == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_gaps_are_exponential_and_repeat_with_their_seed() -> None:
    due_s = poisson(50.0, 20_000, seed=1).due_s
    gaps_s = np.diff(due_s)
    # mean and standard deviation of an exponential are both 1/rate = 20 ms; n = 20,000: +- 0.7 %
    assert np.mean(gaps_s) == pytest.approx(0.02, rel=0.03)
    assert np.std(gaps_s) == pytest.approx(0.02, rel=0.05)
    assert due_s == sorted(due_s)
    assert poisson(50.0, 20_000, seed=1).due_s == due_s
    assert poisson(50.0, 20_000, seed=2).due_s != due_s


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        poisson(rate, 10, 0)
    with pytest.raises(InputError, match="above 0"):
        constant(rate, 10)


@pytest.mark.parametrize(
    ("text", "due_s", "isl"),
    [
        ("10\n10.5\n12\n", [0, 0.5, 2], None),
        (
            '{"timestamp": 1500, "input_length": 7, "output_length": 3}\n'
            '{"timestamp": 1000, "input_length": 9, "output_length": 4}\n',
            [0, 0.5],
            [9, 7],  # sorted by time
        ),
        ('{"timestamp": 0}\n\n{"timestamp": 250}\n', [0, 0.25], None),
        ("arrival_s,isl,osl\n3,100,10\n4.5,200,20\n", [0, 1.5], [100, 200]),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
            [0, 0.052],
            [4808, 3180],
        ),
    ],
)
def test_a_trace_is_read_in_each_of_its_forms(
    tmp_path: Path, text: str, due_s: list[float], isl: list[int] | None
) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    found = read_trace(file)
    assert found.due_s == pytest.approx(due_s, abs=1e-6)
    assert found.isl == isl
    assert (found.osl is None) == (isl is None)
    assert len(read_trace(file, requests=1).due_s) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("1\nsoon\n", "line 2: .*soon"),
        ('{"when": 3}\n', "line 1"),
        ('{"timestamp": \n', "line 1"),
        ("arrival_s,isl,osl\n1,2,3\n\nx,2,3\n", "line 4"),
        ("arrival_s,isl,osl\n", "only a header"),
        ("nan\n", "line 1"),
        ("arrival_s,isl,osl\n1,-2,3\n", "line 2"),
    ],
)
def test_a_trace_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        read_trace(file)


def test_a_trace_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the trace"):
        read_trace(tmp_path / "none")
