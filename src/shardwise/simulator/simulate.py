"""Simulate a deployment under open-loop or closed-loop traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.fleet import Failure, Group, make_fleet, model_names
from shardwise.simulator.results import Result
from shardwise.simulator.routing import POLICIES
from shardwise.simulator.state import (
    COUNTED,
    DOWN,
    DRAINING,
    UP,
    Sim,
    new_loop,
    new_replicas,
    new_requests,
)
from shardwise.simulator.trace import Trace, model_indices


class Change(msgspec.Struct, frozen=True):
    """Replica `replica` accepts requests from `at_s`, or only finishes its own."""

    replica: int
    at_s: float
    up: bool


def _events(
    failures: Sequence[Failure], changes: Sequence[Change], replicas: int
) -> list[tuple[float, int, int]]:
    events = [(c.at_s, c.replica, UP if c.up else DRAINING) for c in changes]
    for failure in failures:
        if not 0 <= failure.replica < replicas:
            raise InputError(
                f"failure of replica {failure.replica}", f"allowed: 0 to {replicas - 1}"
            )
        if not 0 <= failure.down_s < failure.up_s:
            raise InputError(
                f"failure from {failure.down_s:g} to {failure.up_s:g} s",
                "needed: a start of at least 0, before its end",
            )
        events.append((failure.down_s, failure.replica, DOWN))
        if np.isfinite(failure.up_s):
            events.append((failure.up_s, failure.replica, UP))
    return sorted(events, key=lambda event: event[0])


def _least_think_s(trace: Trace) -> float:
    sessions = trace.sessions
    if sessions is None or not (sessions.previous >= 0).any():
        return 0.0
    return float(sessions.think_s[sessions.previous >= 0].min())


def require_policy(name: str) -> None:
    """Raise InputError for an unknown policy of the balancer."""
    if name not in POLICIES:
        raise InputError(
            f"balancer policy {name!r}", f"allowed: {', '.join(POLICIES)}", field="policy"
        )


def simulate(
    groups: Sequence[Group],
    trace: Trace,
    *,
    policy: str = "least_loaded",
    concurrency: int = 0,
    counted: int | None = None,
    until_s: float = math.inf,
    failures: Sequence[Failure] = (),
    changes: Sequence[Change] = (),
    seed: int = 0,
) -> Result:
    """Serve `trace` with `groups` of replicas behind a balancer; the same seed gives the same
    result.

    With `concurrency` above 0, that many closed-loop clients ignore the trace's times. The result
    then covers the first `counted` requests (None: all) that are sent before `until_s`, and the run
    ends with the last of them: the others only keep the clients busy. `changes` are replicas that
    start and stop without losing requests. Raises InputError for an unknown policy, a missing model
    or an invalid failure.
    """
    from shardwise.simulator.kernel import run_loop

    require_policy(policy)
    if len(trace) == 0:
        raise InputError("0 requests", "needed: at least 1")
    if concurrency and trace.sessions is not None:
        raise InputError(
            "sessions with a concurrency", "allowed: one of both", "sessions have their own pace"
        )
    fleet = make_fleet(groups)
    events = _events(failures, changes, len(fleet.model))
    requests = new_requests(trace, model_indices(trace, model_names(groups)))
    loop = new_loop(concurrency, trace, seed)
    sim = Sim(fleet, requests, new_replicas(fleet, trace.segments), loop)
    run_loop(
        sim,
        POLICIES.index(policy),
        concurrency > 0,
        len(trace) if counted is None else counted,
        until_s,
        _least_think_s(trace),
        np.array([time for time, _, _ in events], dtype=np.float64),
        np.array([replica for _, replica, _ in events], dtype=np.int64),
        np.array([up for _, _, up in events], dtype=np.int64),
    )
    result = Result(tuple(groups), requests, sim.replicas, loop, tuple(failures), concurrency)
    return result.part(slice(int(loop.counts[COUNTED]))) if concurrency else result
