"""Workloads and latency bounds: what is allowed, and how a spread of lengths is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.workload.workload import (
    MAX_TOKENS,
    TRAFFIC_CV,
    Slo,
    Workload,
    require_length_cv,
    spread_of,
)

TOKENS = st.integers(1, MAX_TOKENS)


def test_a_uniform_spread_has_the_standard_deviation_that_is_asked() -> None:
    # uniform on mean * (1 +- h): variance h^2 / 3
    draws = 100 * (1 + spread_of(0.2) * np.linspace(-1, 1, 100_001))
    assert draws.std() / draws.mean() == pytest.approx(0.2, rel=1e-4)


@given(st.floats(0, 10))
def test_a_workload_says_the_variation_that_it_was_given(length_cv: float) -> None:
    asked = Workload(1000, 200, 8, length_spread=spread_of(length_cv))
    assert asked.length_cv == pytest.approx(length_cv)


def test_lengths_of_which_nobody_says_how_they_spread_are_traffics() -> None:
    assert Workload(1000, 200, 8).length_cv == TRAFFIC_CV
    assert Workload(1000, 200, 8, length_spread=0.0).length_cv == 0.0


@pytest.mark.parametrize("length_cv", [-0.1, 10.5, math.nan, math.inf])
def test_a_spread_that_is_none_is_refused(length_cv: float) -> None:
    with pytest.raises(InputError, match="allowed: 0 to 10"):
        require_length_cv(length_cv)


@given(TOKENS, TOKENS, TOKENS)
def test_whatever_is_within_the_bounds_is_a_workload(isl: int, osl: int, concurrency: int) -> None:
    assert Workload(isl, osl, concurrency).isl == isl


@pytest.mark.parametrize("name", ["isl", "osl", "concurrency"])
@pytest.mark.parametrize("value", [0, -1, MAX_TOKENS + 1])
def test_a_size_that_is_no_number_of_tokens_is_named(name: str, value: int) -> None:
    sizes: dict[str, Any] = {"isl": 1, "osl": 1, "concurrency": 1, name: value}
    with pytest.raises(InputError, match=f"{name} is {value:,}; allowed: 1 to 10,000,000"):
        Workload(**sizes)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e9, math.inf])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="request_rate is"):
        Workload(1000, 200, 8, request_rate=rate)


def test_the_last_token_of_a_prompt_is_never_cached() -> None:
    assert Workload(1000, 200, 8, cached_tokens=999).cached_tokens == 999
    with pytest.raises(InputError, match="allowed: 0 to 999, the last token is always computed"):
        Workload(1000, 200, 8, cached_tokens=1000)


@pytest.mark.parametrize("requests", [-1, MAX_TOKENS + 1])
def test_a_number_of_requests_that_is_none_is_refused(requests: int) -> None:
    with pytest.raises(InputError, match="requests is"):
        Workload(1000, 200, 8, requests=requests)


def test_only_the_bounds_that_are_asked_are_there() -> None:
    assert Slo().bounds() == {}
    assert Slo(tpot_s=0.05, ttft_s=2.0).bounds() == {"ttft_s": 2.0, "tpot_s": 0.05}


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "e2e_latency_s"])
def test_a_bound_is_a_time_above_zero(name: str, bound: float) -> None:
    with pytest.raises(InputError, match=f"{name} bound is"):
        Slo(**{name: bound})
