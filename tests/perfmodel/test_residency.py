"""Sequences in the KV cache: how many fit while their lengths and their sum vary."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.residency import resident_in_loop, resident_in_queue


def offered(
    slots: float, isl: float, osl: float, cache: float, *, cv: float = 0.0, waves: float = 10.0
) -> Load:
    one = (np.array([float(v)]) for v in (slots, isl, osl, waves * slots, 1024, 8192, cache, cv))
    return Load(Layouts.of([Layout()]), *one)


def test_equal_requests_fill_a_cache_that_holds_their_mean_at_the_end_of_each_wave() -> None:
    # 100 to 200 tokens each, as time goes by, in a cache of 150 each. Above 150, all d tokens of a
    # slot are not there: the mean of (d - 150) / d over d = 100 to 200 is 0.5 - 1.5 ln(200 / 150)
    found = resident_in_loop(offered(10, 100, 100, 1500))
    assert found.sequences[0] == pytest.approx(10 * (0.5 + 1.5 * math.log(4 / 3)), rel=0.01)
    assert not found.limited[0]  # the mean fits
    # for half of the time as many tokens as decoded ones are preempted: half of 100 per request
    assert found.recomputed[0] == pytest.approx(50.0, abs=2.0)


def test_a_cache_for_all_at_their_longest_delays_nobody() -> None:
    for load in (offered(10, 100, 100, 2050), offered(64, 1000, 500, 64 * 1800, cv=0.3)):
        found = resident_in_loop(load)
        assert found.sequences[0] == pytest.approx(load.concurrency[0], rel=1e-4)
        assert found.recomputed[0] == pytest.approx(0.0, abs=0.1)


def test_requests_that_never_were_in_step_need_less_than_those_that_still_are() -> None:
    # lengths vary by 6 %: ten waves after a burst are nearly in step, an endless run is not
    burst = offered(64, 1000, 7000, 64 * 4950.0, cv=0.064)
    endless = replace(burst, requests=np.array([np.inf]))
    unknown = replace(burst, lengths_told=False)
    waiting = [64 - resident_in_loop(load).sequences[0] for load in (burst, endless, unknown)]
    assert waiting[0] > 4 * waiting[1]
    assert waiting[1] == pytest.approx(waiting[2])
    # 64 independent ones have 4514 +- 256 tokens each on average, and 4950 is 1.70 of these away;
    # the mean excess of a normal variable over 1.70 is 0.0183
    assert waiting[1] == pytest.approx(64 * 0.0183 * 256 / 4950, rel=0.02)


def test_an_engine_that_reserves_whole_outputs_preempts_nobody() -> None:
    load = replace(offered(10, 100, 100, 1500), reserves_output=True)
    found = resident_in_loop(load)
    assert found.sequences[0] == pytest.approx(7.5)  # of 200 tokens each
    assert (found.before_first[0], found.recomputed[0]) == (1.0, 0.0)


def test_a_queue_keeps_the_cache_full() -> None:
    found = resident_in_queue(offered(100, 100, 100, 1500))
    assert found.sequences[0] == pytest.approx(10.0)  # of 150 tokens on average
    # each request that ends frees 200 tokens; prompts take them all, and 100 are preempted again
    assert found.recomputed[0] == pytest.approx(100.0)
    assert resident_in_queue(offered(10, 100, 100, 1500)).recomputed[0] == 0.0


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 512),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.floats(0.0, 2.0),
    st.floats(0.2, 3.0),
    st.sampled_from((1.0, 10.0, math.inf)),
)
def test_more_cache_never_holds_fewer(
    slots: int, isl: int, osl: int, cv: float, share: float, waves: float
) -> None:
    cache = share * slots * (isl + osl * (1.0 + cv**2) / 2.0)
    less = resident_in_loop(offered(slots, isl, osl, cache, cv=cv, waves=waves))
    more = resident_in_loop(offered(slots, isl, osl, 1.1 * cache, cv=cv, waves=waves))
    assert less.sequences[0] <= more.sequences[0] * (1.0 + 1e-9)
    assert 0.0 < more.sequences[0] <= slots
    assert 0.0 <= less.before_first[0] <= 1.0
    assert more.recomputed[0] <= less.recomputed[0] + 1e-9
