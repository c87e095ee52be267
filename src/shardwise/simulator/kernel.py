"""The event loop: arrivals, failures and returns in order of time; replicas move between them."""

from __future__ import annotations

import math

from shardwise.simulator.compiling import compiled
from shardwise.simulator.queues import take_slot
from shardwise.simulator.routing import dispatch, fail, recover
from shardwise.simulator.state import ISSUED, SLOTS, Floats, Ints, Sim
from shardwise.simulator.stepping import advance, base_and_slope

JUST: float = 1e-9  #: seconds; a horizon just past now lets a replica make one step


@compiled
def horizon(sim: Sim, r: int) -> float:
    """A time before which no request of replica `r` can end."""
    requests, replicas = sim.requests, sim.replicas
    n, head, now = replicas.running[r], replicas.head[r], replicas.now[r]
    soonest = math.inf
    if head >= 0:
        soonest = max(requests.ready[head], now) + JUST
    if replicas.partial[r] >= 0:
        soonest = now + JUST
    if n > 0:
        base, slope = base_and_slope(sim, r)
        k = replicas.heap_step[r, 0] - replicas.steps[r]
        soonest = min(soonest, now + base * k + slope * (k * (k - 1) / 2.0))
    return soonest


@compiled
def next_arrival(sim: Sim, closed: bool) -> float:
    """When the next request is sent, as far as is known; infinite if none is due."""
    issued = sim.loop.counts[ISSUED]
    if issued == len(sim.requests.arrival):
        return math.inf
    if not closed:
        return sim.requests.arrival[issued]  # type: ignore[no-any-return,unused-ignore]
    return sim.loop.slots[0] if sim.loop.counts[SLOTS] > 0 else math.inf  # type: ignore[no-any-return,unused-ignore]


@compiled
def run_loop(
    sim: Sim, policy: int, closed: bool, event_time: Floats, event_replica: Ints, event_up: Ints
) -> None:
    """Serve all requests. In a closed loop a request is sent when one of the clients is free."""
    requests, replicas, loop = sim.requests, sim.replicas, sim.loop
    total, count, event = len(requests.arrival), len(sim.fleet.model), 0
    while True:
        issued = loop.counts[ISSUED]
        due = next_arrival(sim, closed)
        time = due
        if closed and issued < total:
            for r in range(count):
                time = min(time, horizon(sim, r))
        if event < len(event_time):
            time = min(time, event_time[event])
        for r in range(count):
            if replicas.up[r] == 1:
                advance(sim, r, time)
        if math.isinf(time):
            return
        if event < len(event_time) and event_time[event] <= time:
            if event_up[event] == 1:
                recover(sim, event_replica[event], time)
            else:
                fail(sim, event_replica[event], time, policy)
            event += 1
        elif due <= time:
            if closed:
                requests.arrival[issued] = take_slot(loop)
            loop.counts[ISSUED] += 1
            dispatch(sim, issued, time, policy)
