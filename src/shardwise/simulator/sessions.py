"""Random conversations: turns, growth, think times, shared system prompts."""

from __future__ import annotations

import msgspec
import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.trace import (
    MAX_REQUESTS,
    Floats,
    Ints,
    Sessions,
    Shared,
    Trace,
)
from shardwise.simulator.traffic import Lengths, log_normal

MAX_TURNS = 1000


class SessionTraffic(msgspec.Struct, frozen=True):
    """Sessions that start at random times, each a conversation with a growing prompt.

    A turn's prompt is a system prompt, all earlier questions and answers, and a new question. The
    next turn is sent after a log-normal think time with mean `think_s` and coefficient of
    variation 1. The number of turns is geometric.
    """

    session_rate: float  #: sessions/s that begin
    turns: float  #: mean
    question: Lengths  #: tokens that a turn adds to the prompt
    answer: Lengths
    think_s: float
    duration_s: float = 600.0  #: in which sessions begin
    prefixes: int = 1  #: system prompts, chosen evenly
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.session_rate < 1e9:
            raise InputError(
                f"session rate is {self.session_rate:g}", "allowed: above 0, below 1e9/s"
            )
        if not 0 < self.duration_s < 1e9:
            raise InputError(f"duration is {self.duration_s:g} s", "allowed: above 0, below 1e9")
        if not 1 <= self.turns <= MAX_TURNS:
            raise InputError(
                f"turns is {self.turns:g}", f"allowed: 1 to {MAX_TURNS}", "a session must end"
            )
        if not 0 < self.think_s < 1e6:
            raise InputError(f"think time is {self.think_s:g} s", "allowed: above 0, up to 1e6")
        if self.prefixes < 1 or not 0 <= self.prefix_tokens <= 10_000_000:
            raise InputError(
                f"{self.prefixes} system prompts of {self.prefix_tokens} tokens",
                "allowed: 1 or more, of 0 to 10000000 tokens",
            )
        if self.session_rate * self.duration_s * self.turns > MAX_REQUESTS:
            raise InputError(
                f"{self.session_rate * self.duration_s * self.turns:.3g} requests",
                f"allowed: up to {MAX_REQUESTS:,}",
                "shorten the duration",
            )


def draw_sessions(traffic: SessionTraffic, seed: int = 0) -> Trace:
    """Draw a trace of the sessions; the same seed gives the same trace."""
    count = round(traffic.session_rate * traffic.duration_s)
    if count == 0:
        raise InputError("0 sessions", "needed: at least 1", "raise the rate or the duration")
    starts, lengths, questions, answers, thinks, labels = (
        np.random.default_rng([seed, 100 + stream]) for stream in range(6)
    )
    begun = np.cumsum(starts.exponential(1.0, count)) / traffic.session_rate
    turns = np.minimum(lengths.geometric(1.0 / traffic.turns, count), MAX_TURNS)
    n = int(turns.sum())
    first = np.repeat(np.cumsum(turns) - turns, turns)
    session = np.repeat(np.arange(count), turns)
    turn = np.arange(n) - first
    question, answer = traffic.question.draw(questions, n), traffic.answer.draw(answers, n)
    think_s = log_normal(thinks, traffic.think_s, 1.0, n) * (turn > 0)
    said = _sum_within((question + answer).astype(np.float64), first).astype(np.int64)
    end = traffic.prefix_tokens + said
    earliest = begun[session] + _sum_within(think_s, first)
    trace = Trace(
        earliest,
        end - answer,
        answer,
        np.zeros(n, dtype=np.int64),
        shared=_chains(traffic, turn, end, labels.integers(0, traffic.prefixes, count)[session]),
        sessions=Sessions(
            session.astype(np.int64),
            np.where(turn > 0, np.arange(n) - 1, -1).astype(np.int64),
            think_s,
        ),
    )
    return sorted_by_arrival(trace)


def _sum_within(values: Floats, first: Ints) -> Floats:
    """Return cumulative sums within each session."""
    sums = np.cumsum(values)
    return np.asarray(sums - np.where(first > 0, sums[first - 1], 0.0))


def _chains(traffic: SessionTraffic, turn: Ints, end: Ints, label: Ints) -> Shared:
    """Return a system prompt followed by the question and answer of each turn; the last turn's
    addition is never reused."""
    n, system = len(turn), traffic.prefixes
    last = np.append(turn[1:] == 0, True)
    count = 1 + turn + ~last
    at = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    request = np.repeat(np.arange(n), count)
    place = np.arange(at[-1]) - at[:-1][request]
    segment = np.where(place == 0, label[request], system + request - turn[request] + place - 1)
    ends = np.concatenate([np.full(system, traffic.prefix_tokens), end])
    return Shared(at, segment.astype(np.int64), ends.astype(np.int64))


def sorted_by_arrival(trace: Trace) -> Trace:
    """Return the requests in order of arrival, the first at 0 s."""
    order = np.argsort(trace.arrival_s, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    sessions = trace.sessions
    if sessions is not None:
        previous = sessions.previous[order]
        sessions = Sessions(
            sessions.session[order],
            np.where(previous >= 0, place[previous], -1),
            sessions.think_s[order],
        )
    arrival_s = trace.arrival_s[order]
    return Trace(
        arrival_s - arrival_s[0],
        trace.isl[order],
        trace.osl[order],
        trace.model[order],
        trace.models,
        None if trace.shared is None else trace.shared.of(order),
        sessions,
    )
