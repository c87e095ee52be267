"""The balancer: which replica a request goes to, and what happens to it when one fails."""

from __future__ import annotations

from typing import Final

from shardwise.simulator.compiling import compiled
from shardwise.simulator.queues import append, free_slot
from shardwise.simulator.state import FAILED, PENDING, REJECTED, TURN, Sim

ROUND_ROBIN: Final = 0
LEAST_LOADED: Final = 1
POWER_OF_TWO: Final = 2
CACHE_AWARE: Final = 3
POLICIES: Final = ("round_robin", "least_loaded", "power_of_two", "cache_aware")

#: Cache-aware gives up a cached prefix when its replica has so many requests more than the
#: least loaded one, and so many times more.
IMBALANCE: Final = 3
IMBALANCE_RATIO: Final = 1.2


@compiled
def load_of(sim: Sim, r: int, time: float) -> int:
    """Requests at replica `r` at `time`; those ending with the step in flight still count."""
    replicas = sim.replicas
    ending = replicas.last_done[r] if replicas.now[r] > time else 0
    return replicas.outstanding[r] + ending  # type: ignore[no-any-return,unused-ignore]


@compiled
def serves(sim: Sim, r: int, i: int) -> bool:
    return bool(sim.replicas.up[r] == 1 and sim.fleet.model[r] == sim.requests.model[i])


@compiled
def least_loaded(sim: Sim, i: int, time: float) -> int:
    """The replica with the fewest requests; ties go round."""
    count = len(sim.fleet.model)
    sim.loop.counts[TURN] += 1
    best, fewest = -1, 0
    for k in range(count):
        r = (sim.loop.counts[TURN] + k) % count
        if serves(sim, r, i):
            load = load_of(sim, r, time)
            if best < 0 or load < fewest:
                best, fewest = r, load
    return best


@compiled
def nth_serving(sim: Sim, i: int, n: int) -> int:
    for r in range(len(sim.fleet.model)):
        if serves(sim, r, i):
            if n == 0:
                return r
            n -= 1
    return -1


@compiled
def power_of_two(sim: Sim, i: int, time: float) -> int:
    """The less loaded of two replicas drawn at random; -1 if none is up."""
    count = len(sim.fleet.model)
    serving = 0
    for r in range(count):
        serving += serves(sim, r, i)
    if serving == 0:
        return -1
    first = min(int(sim.loop.coins[i, 0] * serving), serving - 1)
    second = min(int(sim.loop.coins[i, 1] * (serving - 1)), serving - 2)
    a = nth_serving(sim, i, first)
    if serving == 1:
        return a
    b = nth_serving(sim, i, second + (1 if second >= first else 0))
    return b if load_of(sim, b, time) < load_of(sim, a, time) else a


@compiled
def pick(sim: Sim, i: int, time: float, policy: int) -> int:
    """The replica for request `i`; -1 if none is up."""
    count = len(sim.fleet.model)
    if policy == ROUND_ROBIN:
        for _ in range(count):
            r = sim.loop.counts[TURN] % count
            sim.loop.counts[TURN] += 1
            if serves(sim, r, i):
                return r  # type: ignore[no-any-return,unused-ignore]
        return -1
    if policy == POWER_OF_TWO:
        return power_of_two(sim, i, time)
    best = least_loaded(sim, i, time)
    p = sim.requests.prefix[i]
    if policy == CACHE_AWARE and p >= 0 and best >= 0:
        home = sim.loop.home[p]
        if home >= 0 and serves(sim, home, i):
            load, fewest = load_of(sim, home, time), load_of(sim, best, time)
            if load - fewest <= IMBALANCE or load <= IMBALANCE_RATIO * fewest:
                return home  # type: ignore[no-any-return,unused-ignore]
        sim.loop.home[p] = best
    return best


@compiled
def dispatch(sim: Sim, i: int, time: float, policy: int) -> None:
    """Send request `i` to a replica; one that can never fit there is rejected at once."""
    fleet, requests, replicas = sim.fleet, sim.requests, sim.replicas
    r = pick(sim, i, time, policy)
    tokens = requests.isl[i] + requests.osl[i]
    if r < 0 or tokens - 1 > fleet.kv_capacity[r] or tokens > fleet.max_context[r]:
        requests.status[i] = FAILED if r < 0 else REJECTED
        requests.finish[i] = time
        free_slot(sim.loop, time)
        return
    requests.replica[i] = r
    pp = fleet.pp_size[fleet.table[r]]
    step = fleet.decode[fleet.table[r], (replicas.running[r] + pp - 1) // pp]
    delay = fleet.delay_s[r] + fleet.delay_steps[r] * step
    ready = max(time + delay, replicas.last_ready[r])
    requests.ready[i] = ready
    replicas.last_ready[r] = ready
    replicas.outstanding[r] += 1
    if replicas.running[r] == 0 and replicas.waiting[r] == 0 and replicas.partial[r] < 0:
        replicas.now[r] = max(replicas.now[r], time)
    append(requests, replicas, r, i)


@compiled
def cut(sim: Sim, i: int, time: float) -> None:
    """Request `i` was being answered and is lost."""
    sim.requests.status[i] = FAILED
    sim.requests.finish[i] = time
    free_slot(sim.loop, time)


@compiled
def fail(sim: Sim, r: int, time: float, policy: int) -> None:
    """Replica `r` stops: streams that had begun are cut, the others go to another replica."""
    requests, replicas = sim.requests, sim.replicas
    replicas.up[r] = 0
    for k in range(replicas.running[r]):
        cut(sim, replicas.heap_id[r, k], time)
    again = replicas.partial[r]
    replicas.running[r], replicas.context[r], replicas.kv_used[r] = 0, 0, 0
    replicas.evictable[r], replicas.partial[r], replicas.outstanding[r] = 0, -1, 0
    replicas.prefix_used[r, :] = -1.0
    replicas.prefix_refs[r, :] = 0
    first, waiting = replicas.head[r], replicas.waiting[r]
    if again >= 0:
        requests.next[again] = first
        first = again
        waiting += 1
    replicas.head[r], replicas.tail[r], replicas.waiting[r] = -1, -1, 0
    i = first
    for _ in range(waiting):
        following = requests.next[i]
        if requests.generated[i] > 0:
            cut(sim, i, time)
        else:
            assert requests.status[i] == PENDING
            dispatch(sim, i, time, policy)
        i = following


@compiled
def recover(sim: Sim, r: int, time: float) -> None:
    """Replica `r` is back, empty."""
    replicas = sim.replicas
    replicas.up[r] = 1
    replicas.now[r] = max(time, replicas.now[r])
    replicas.last_ready[r] = replicas.now[r]
    replicas.last_done[r] = 0
