"""The event loop: arrivals, failures and recoveries in order of time; replicas advance between
them."""

from __future__ import annotations

import math

from shardwise.simulator.compiling import compiled, entry
from shardwise.simulator.queues import pop_turn, take_slot
from shardwise.simulator.routing import dispatch, fail, recover
from shardwise.simulator.state import (
    COUNTED,
    DOWN,
    DRAINING,
    ISSUED,
    LEAST_OSL,
    OPEN,
    PENDING_TURNS,
    SLOTS,
    TURNS_LEFT,
    UP,
    Sim,
)
from shardwise.simulator.stepping import advance, base_and_slope
from shardwise.simulator.trace import Floats, Ints

JUST: float = 1e-9  #: seconds; a horizon just after now lets a replica run one step


@compiled
def horizon(sim: Sim, r: int) -> float:
    """Return a time before which no request of replica `r` can end."""
    requests, replicas = sim.requests, sim.replicas
    n, head, now = replicas.running[r], replicas.head[r], replicas.now[r]
    step_s = sim.fleet.least_step_s[r]
    soonest = math.inf
    if head >= 0:
        # preempted requests, which already have tokens, are first in the queue
        steps = sim.loop.counts[LEAST_OSL] - 1 if requests.generated[head] == 0 else 0
        soonest = max(requests.ready[head], now) + steps * step_s + JUST
    if replicas.partial[r] >= 0:
        i = replicas.partial[r]
        steps = requests.osl[i] - requests.generated[i] - 1
        soonest = min(soonest, now + steps * step_s + JUST)
    if n > 0:
        base, slope, holds = base_and_slope(sim, r)
        k = min(replicas.heap_step[r, 0] - replicas.steps[r], holds)
        soonest = min(soonest, now + base * k + slope * (k * (k - 1) / 2.0))
    return soonest


@compiled
def next_arrival(sim: Sim, closed: bool) -> float:
    """Return when the next known request is sent; infinite if none."""
    loop = sim.loop
    issued = loop.counts[ISSUED]
    due = math.inf
    if issued < len(loop.first_turns):
        if not closed:
            due = sim.requests.arrival[loop.first_turns[issued]]
        elif loop.counts[SLOTS] > 0:
            due = loop.slots[0]
    if loop.counts[PENDING_TURNS] > 0:
        due = min(due, loop.turn_time[0])
    return due


@compiled
def take_next(sim: Sim, closed: bool, time: float, limit: int, until_s: float) -> int:
    """Return the request that is sent at `time`."""
    requests, loop = sim.requests, sim.loop
    if loop.counts[PENDING_TURNS] > 0 and loop.turn_time[0] <= time:
        i = pop_turn(loop)
        loop.counts[TURNS_LEFT] -= 1
        requests.arrival[i] = time
        return i
    i = loop.first_turns[loop.counts[ISSUED]]
    if closed:
        requests.arrival[i] = take_slot(loop)
        if i == loop.counts[COUNTED] and i < limit and requests.arrival[i] < until_s:
            loop.counts[COUNTED] += 1
            loop.counts[OPEN] += 1
    loop.counts[ISSUED] += 1
    return i  # type: ignore[no-any-return,unused-ignore]


@compiled
def safe_time(sim: Sim, closed: bool, least_think_s: float) -> float:
    """Return a time before which no answer can trigger a yet unknown request."""
    loop = sim.loop
    waits = closed and loop.counts[ISSUED] < len(loop.first_turns)
    if not waits and loop.counts[TURNS_LEFT] == loop.counts[PENDING_TURNS]:
        return math.inf
    soonest = math.inf
    for r in range(len(sim.fleet.model)):
        soonest = min(soonest, horizon(sim, r))
    return soonest if closed else soonest + least_think_s


@compiled
def ended(sim: Sim, closed: bool, due: float, limit: int, until_s: float) -> bool:
    """Return whether the counted requests of a closed loop are all sent and answered."""
    counts = sim.loop.counts
    return bool(closed and counts[OPEN] == 0 and (counts[ISSUED] >= limit or due >= until_s))


@entry
def run_loop(
    sim: Sim,
    policy: int,
    closed: bool,
    limit: int,
    until_s: float,
    least_think_s: float,
    event_time: Floats,
    event_replica: Ints,
    event_up: Ints,
) -> None:
    """Serve all requests. In a closed loop, a request is sent when a client is free, until the
    first `limit` requests that are sent before `until_s` have been answered."""
    replicas = sim.replicas
    count, event = len(sim.fleet.model), 0
    while True:
        due = next_arrival(sim, closed)
        if ended(sim, closed, due, limit, until_s):
            return
        time = min(due, safe_time(sim, closed, least_think_s))
        if event < len(event_time):
            time = min(time, event_time[event])
        for r in range(count):
            if replicas.up[r] != DOWN:
                advance(sim, r, time)
        if math.isinf(time):
            return
        if event < len(event_time) and event_time[event] <= time:
            if event_up[event] == UP:
                recover(sim, event_replica[event], time)
            elif event_up[event] == DRAINING:
                replicas.up[event_replica[event]] = DRAINING
            else:
                fail(sim, event_replica[event], time, policy)
            event += 1
        elif due <= time:
            dispatch(sim, take_next(sim, closed, due, limit, until_s), due, policy)
