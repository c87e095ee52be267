"""The steady window leaves out what is not the load that was asked for."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.bench.window import inside, mser, steady_window, token_times
from shardwise.evidence.request import RequestRecord


def request(number: int, start: float, gap: float = 0.1, tokens: int = 10) -> RequestRecord:
    times = array("d", [start + gap * (i + 1) for i in range(tokens)])
    return RequestRecord(number, start, tokens, start, times[-1], times[-1], times, 5, tokens, True)


def closed_loop(slots: int, waves: int, first_wave_s: float = 3.0) -> list[RequestRecord]:
    """Each request takes 1 s, the first wave's `first_wave_s`; a slot follows itself."""
    found: list[RequestRecord] = []
    for slot in range(slots):
        found.append(request(len(found), 0.0, first_wave_s / 10))
        for wave in range(1, waves):
            found.append(request(len(found), first_wave_s + wave - 1.0 + slot * 0.001))
    return found


def test_a_closed_loop_leaves_out_the_first_wave_and_the_drain() -> None:
    start, end = steady_window(closed_loop(4, 10), concurrency=4)
    assert start >= 3.0  # the first wave ended
    assert 10.9 < end <= 12.0 + 0.003  # from here on fewer than 4 are in flight


def in_step(slots: int, waves: int) -> list[RequestRecord]:
    """Waves of 2 s: a second of prompts, then 10 tokens of each, the last of slot 0 first."""
    found: list[RequestRecord] = []
    for wave in range(waves):
        for slot in range(slots):
            last = 1.6 + 0.1 * slot
            times = array("d", np.linspace(2.0 * wave + 1.0, 2.0 * wave + last, 10).tolist())
            sent = 2.0 * (wave - 1) + last if wave else 0.0
            at = (sent, times[-1], times[-1], times)
            found.append(RequestRecord(len(found), sent, 10, *at, 5, 10, True))
    return found


@pytest.mark.parametrize("waves", [3, 4, 10])
def test_requests_in_step_are_counted_in_whole_waves(waves: int) -> None:
    records = in_step(4, waves)
    start, end = steady_window(records, concurrency=4)
    tokens = np.count_nonzero((token_times(records) > start) & (token_times(records) <= end))
    # Little's law: 4 requests of 10 tokens in 2 s
    assert tokens / (end - start) == pytest.approx(20.0)
    assert len(inside(records, (start, end))) % 4 == 0


def test_mser_drops_the_transient() -> None:
    # 20 values of a start-up at 10, then 100 at 50 with a little noise
    rng = np.random.default_rng(0)
    series = np.concatenate([np.full(20, 10.0), 50.0 + rng.normal(0, 1, 100)])
    assert mser(series) == 20
    assert mser(np.ones(10)) == 0  # too short to judge


def test_a_run_too_short_keeps_what_it_has() -> None:
    records = closed_loop(4, 1)
    start, end = steady_window(records, concurrency=4)
    assert len(inside(records, (start, end))) == 4


def test_failed_requests_are_in_no_window() -> None:
    records = closed_loop(2, 6)
    records[-1].failure = "cut"
    window = steady_window(records, concurrency=2)
    assert records[-1] not in inside(records, window)
    nothing = steady_window([RequestRecord(0, 0.0, 5, failure="refused")], concurrency=1)
    assert all(np.isnan(nothing))


@settings(max_examples=50, deadline=None)
@given(slots=st.integers(1, 8), waves=st.integers(1, 12), first=st.floats(0.5, 5.0))
def test_a_window_lies_within_the_tokens_and_holds_a_request(
    slots: int, waves: int, first: float
) -> None:
    records = closed_loop(slots, waves, first)
    start, end = steady_window(records, concurrency=slots)
    times = token_times(records)
    assert times[0] <= start < end <= times[-1]
    assert inside(records, (start, end))
