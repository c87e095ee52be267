"""Traffic that is drawn: lengths and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.simulator.traffic import Lengths, Traffic, draw, lengths_within
from shardwise.workload.workload import TRAFFIC_CV


@settings(max_examples=60, deadline=None)
@given(
    isl=st.integers(1, 4000),
    osl=st.integers(1, 4000),
    cv=st.floats(0.0, 3.0),
    context=st.integers(2, 100_000),
)
def test_no_request_is_longer_than_a_replica_takes(
    isl: int, osl: int, cv: float, context: int
) -> None:
    if isl + osl > context:
        return
    trace = draw(Traffic(100.0, *lengths_within(isl, osl, cv, context), 20.0))
    assert int((trace.isl + trace.osl).max()) <= context
    assert trace.isl.min() >= 1


@pytest.mark.parametrize("cv", [0.5, TRAFFIC_CV])
def test_a_limit_keeps_the_mean(cv: float) -> None:
    rng = np.random.default_rng(0)
    free = Lengths(1000, cv).draw(rng, 20_000).mean()
    limited = Lengths(1000, cv, 2000).draw(np.random.default_rng(0), 20_000)
    assert limited.max() == 2000
    assert limited.mean() == pytest.approx(free, rel=1e-3)


def test_a_limit_below_the_mean_is_refused() -> None:
    with pytest.raises(InputError, match="lengths of at most 50 tokens; allowed: their mean, 100"):
        Lengths(100, 1.0, 50)


def test_a_system_prompt_is_part_of_the_longest_request() -> None:
    traffic = Traffic(50.0, Lengths(100, 2.0), Lengths(50, 2.0), 60.0, prefixes=2, prefix_tokens=70)
    trace = draw(traffic.within(400))
    assert 390 <= int((trace.isl + trace.osl).max()) <= 400
