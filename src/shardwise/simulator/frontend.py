"""The API server of a replica: one process with its own queue.

It parses and tokenizes requests, and turns each output token into text and a stream event. The
tokens of a step arrive together; requests and tokens wait for each other.
"""

from __future__ import annotations

from shardwise.simulator.compiling import compiled
from shardwise.simulator.state import Sim


@compiled
def receive(sim: Sim, r: int, i: int, time: float) -> float:
    """Return when request `i`, arriving at `time`, reaches the engine of replica `r`.

    The running step may end after `time`; its tokens are then queued behind this request.
    """
    fleet, replicas = sim.fleet, sim.replicas
    work = fleet.request_s[r]
    delay = fleet.delay_s[r] + fleet.tokenize_s[r] * sim.requests.isl[i]
    if work == 0.0 and fleet.token_s[r] == 0.0:
        return time + delay  # type: ignore[no-any-return,unused-ignore]
    free = replicas.front_before[r] if replicas.now[r] > time else replicas.front[r]
    start = max(free, time)
    done = start + work
    if replicas.now[r] > time:
        replicas.front_before[r] = done
        replicas.front[r] += work
    else:
        replicas.front[r], replicas.front_before[r] = done, done
    return start + delay  # type: ignore[no-any-return,unused-ignore]


@compiled
def deliver(sim: Sim, r: int, tokens: int, steps: int, first_end: float, end: float) -> float:
    """Return when clients have the tokens of the last of `steps` steps of replica `r`, `tokens`
    per step.

    The first step ends at `first_end`, the last at `end`. Steps get longer, so the server falls
    behind from the start, only at the end, or never. A token arrives in the middle of its group.
    """
    fleet, replicas = sim.fleet, sim.replicas
    work = fleet.token_s[r] * tokens
    if work == 0.0:
        return end
    behind = replicas.front[r]
    if steps > 1:
        before = end - (end - first_end) / (steps - 1)
        behind = max(behind, first_end) + (steps - 1) * work
        behind = max(behind, before + work)
    replicas.front_before[r] = behind
    replicas.front[r] = max(behind, end) + work
    return replicas.front[r] - (work - fleet.token_s[r]) / 2.0  # type: ignore[no-any-return,unused-ignore]
