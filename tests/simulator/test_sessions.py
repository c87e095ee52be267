"""Conversations that are drawn: what each turn sends, when, and what it shares with the last."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.simulator.sessions import MAX_TURNS, SessionTraffic, draw_sessions
from shardwise.simulator.trace import Trace, one_prefix
from shardwise.simulator.traffic import Lengths, Stage, Traffic, draw, in_stages


def traffic(**changes: object) -> SessionTraffic:
    given_ = {
        "session_rate": 2.0,
        "turns": 3.0,
        "question": Lengths(50),
        "answer": Lengths(20),
        "think_s": 5.0,
        "duration_s": 30.0,
        **changes,
    }
    return SessionTraffic(**given_)  # type: ignore[arg-type]


def turn_numbers(trace: Trace) -> np.ndarray:
    """The number of each turn in its session, from 0."""
    assert trace.sessions is not None
    numbers = np.zeros(len(trace), dtype=np.int64)
    for i, before in enumerate(trace.sessions.previous):
        numbers[i] = numbers[before] + 1 if before >= 0 else 0
    return numbers


def test_a_turn_sends_the_whole_conversation_again() -> None:
    trace = draw_sessions(traffic(prefix_tokens=100))
    # a system prompt of 100, then 50 tokens of a question and 20 of its answer for each turn
    assert np.array_equal(trace.isl, 100 + 70 * turn_numbers(trace) + 50)
    assert set(trace.osl) == {20}


def test_a_turn_is_sent_after_the_one_before_and_a_time_to_think() -> None:
    trace = draw_sessions(traffic())
    assert trace.sessions is not None
    previous, think_s = trace.sessions.previous, trace.sessions.think_s
    later = previous >= 0
    assert np.all(previous[later] < np.arange(len(trace))[later])
    assert np.all(think_s[later] > 0)
    assert np.all(think_s[~later] == 0)
    # placed as if answers took no time
    waited = trace.arrival_s[later] - trace.arrival_s[previous[later]]
    assert waited == pytest.approx(think_s[later])
    same = trace.sessions.session
    assert np.array_equal(same[later], same[previous[later]])


def test_sessions_begin_at_their_rate_and_last_as_many_turns_as_were_asked() -> None:
    trace = draw_sessions(traffic(session_rate=20.0, turns=4.0, duration_s=500.0))
    assert trace.sessions is not None
    assert trace.sessions.count == 10_000
    assert len(trace) / 10_000 == pytest.approx(4.0, rel=0.05)  # a geometric mean of 4
    begun = trace.arrival_s[turn_numbers(trace) == 0]
    assert np.diff(np.sort(begun)).mean() == pytest.approx(1 / 20, rel=0.05)
    later = trace.sessions.think_s[trace.sessions.previous >= 0]
    assert later.mean() == pytest.approx(5.0, rel=0.05)
    assert later.std() == pytest.approx(5.0, rel=0.1)  # a coefficient of variation of 1


def test_one_turn_a_session_is_plain_traffic() -> None:
    trace = draw_sessions(traffic(turns=1.0))
    assert trace.sessions is not None
    assert len(trace) == trace.sessions.count == 60
    assert np.all(trace.sessions.previous == -1)


@settings(max_examples=40, deadline=None)
@given(
    turns=st.floats(1.0, 8.0),
    prefixes=st.integers(1, 4),
    prefix_tokens=st.integers(0, 300),
    cv=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_what_a_turn_shares_is_what_the_turn_before_it_said(
    turns: float, prefixes: int, prefix_tokens: int, cv: float, seed: int
) -> None:
    asked = traffic(
        turns=turns, prefixes=prefixes, prefix_tokens=prefix_tokens,
        question=Lengths(50, cv), answer=Lengths(20, cv), duration_s=10.0,
    )  # fmt: skip
    trace = draw_sessions(asked, seed)
    shared, sessions = trace.shared, trace.sessions
    assert shared is not None
    assert sessions is not None
    assert trace.arrival_s[0] == 0.0
    assert np.all(np.diff(trace.arrival_s) >= 0)
    chains = [shared.segment[a:b] for a, b in zip(shared.at[:-1], shared.at[1:], strict=True)]
    for i, chain in enumerate(chains):
        assert shared.end[chain[0]] == prefix_tokens
        assert 0 <= chain[0] < prefixes
        assert np.all(np.diff(shared.end[chain]) >= 0)
        before = sessions.previous[i]
        if before >= 0:
            # the chain of the turn before, which ended with its answer
            assert np.array_equal(chain[: len(chains[before])], chains[before])
            assert shared.end[chains[before][-1]] == trace.isl[before] + trace.osl[before]
            assert trace.isl[i] > trace.isl[before] + trace.osl[before]


def test_the_same_seed_draws_the_same_sessions_and_another_does_not() -> None:
    one, same, other = (draw_sessions(traffic(), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert np.array_equal(one.isl, same.isl)
    assert not np.array_equal(one.arrival_s[:20], other.arrival_s[:20])


def test_a_faster_trace_has_the_same_requests_and_think_times() -> None:
    trace = draw_sessions(traffic())
    fast = trace.faster(4.0)
    assert fast.request_rate == pytest.approx(4.0 * trace.request_rate)
    assert fast.sessions is trace.sessions
    assert np.array_equal(fast.isl, trace.isl)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"session_rate": 0.0}, "session rate is 0; allowed: above 0"),
        ({"session_rate": float("nan")}, "session rate is nan"),
        ({"turns": 0.5}, "turns is 0.5; allowed: 1 to 1000; a session must end"),
        ({"turns": MAX_TURNS + 1}, "turns is 1001"),
        ({"think_s": 0.0}, "think time is 0 s; allowed: above 0"),
        ({"duration_s": float("inf")}, "duration is inf s"),
        ({"prefixes": 0}, "0 system prompts of 0 tokens; allowed: 1 or more"),
        ({"session_rate": 1e6, "duration_s": 1e6}, "3e+12 requests; allowed: up to 20,000,000"),
    ],
)
def test_sessions_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        traffic(**changes)
    assert words in str(caught.value)


def test_less_than_one_session_is_refused_when_it_is_drawn() -> None:
    with pytest.raises(InputError, match="0 sessions; needed: at least 1"):
        draw_sessions(traffic(session_rate=0.01))


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "constant"])
def test_gaps_have_the_mean_and_the_spread_of_their_kind(arrivals: str) -> None:
    asked = Traffic(50.0, Lengths(10), Lengths(10), 1000.0, arrivals, burstiness=2.0)  # type: ignore[arg-type]
    gaps = np.diff(draw(asked).arrival_s)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    cv = {"poisson": 1.0, "bursty": 2.0, "constant": 0.0}[arrivals]
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.1)


def test_stages_have_their_own_rates_one_after_the_other() -> None:
    asked = in_stages([Stage(10.0, 100.0), Stage(40.0, 50.0)], Lengths(10), Lengths(10))
    assert asked.request_rate == pytest.approx((10 * 100 + 40 * 50) / 150)
    trace = draw(asked)
    assert len(trace) == 3000
    first = int((trace.arrival_s < 100.0).sum())
    assert first == pytest.approx(1000, rel=0.1)
    with pytest.raises(InputError, match="stages of 0 s in all; needed: above 0"):
        in_stages([Stage(1.0, 0.0)], Lengths(10), Lengths(10))


def test_prompts_with_one_of_several_prefixes_and_without() -> None:
    shared = one_prefix(np.array([1, -1, 0]), np.array([100, 200]))
    assert shared.at.tolist() == [0, 1, 1, 2]
    assert shared.segment.tolist() == [1, 0]
    kept = shared.of(np.array([2, 0]))
    assert (kept.at.tolist(), kept.segment.tolist()) == ([0, 1, 2], [0, 1])
