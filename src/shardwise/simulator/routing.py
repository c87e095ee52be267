"""The balancer: routing of requests, and handling of replica failures."""

from __future__ import annotations

from typing import Final

from shardwise.simulator.compiling import compiled
from shardwise.simulator.frontend import receive
from shardwise.simulator.prefixes import forget, found
from shardwise.simulator.queues import answered, append
from shardwise.simulator.state import DOWN, DRAINING, FAILED, PENDING, REJECTED, TURN, UP, Sim

ROUND_ROBIN: Final = 0
LEAST_LOADED: Final = 1
POWER_OF_TWO: Final = 2
CACHE_AWARE: Final = 3
PREFIX_AWARE: Final = 4
SESSION_STICKY: Final = 5
POLICIES: Final = (
    *("round_robin", "least_loaded", "power_of_two"),
    *("cache_aware", "prefix_aware", "session_sticky"),
)

#: cache_aware ignores a cached prefix if its replica exceeds the least loaded one by this many
#: requests and by this factor.
IMBALANCE: Final = 3
IMBALANCE_RATIO: Final = 1.2
#: Seconds after which a closed-loop client that finds no replica up gives up a request. Assumed: a
#: usual connection timeout is 1 to 30 s. Doubling it halves the failed requests of an outage.
GIVE_UP_S: Final = 1.0


@compiled
def load_of(sim: Sim, r: int, time: float) -> int:
    """Return the requests at replica `r` at `time`, including those ending with the running
    step."""
    replicas = sim.replicas
    ending = replicas.last_done[r] if replicas.now[r] > time else 0
    return replicas.outstanding[r] + ending  # type: ignore[no-any-return,unused-ignore]


@compiled
def serves(sim: Sim, r: int, i: int) -> bool:
    """Return whether replica `r` is up and serves the model of request `i`."""
    return bool(sim.replicas.up[r] == UP and sim.fleet.model[r] == sim.requests.model[i])


@compiled
def least_loaded(sim: Sim, i: int, time: float) -> int:
    """Return the replica with the fewest requests; among several, the one whose latest request is
    oldest, like HAProxy's leastconn. That one has probably finished its prompts."""
    last_ready = sim.replicas.last_ready
    best, fewest = -1, 0
    for r in range(len(sim.fleet.model)):
        if serves(sim, r, i):
            load = load_of(sim, r, time)
            tied = load == fewest and last_ready[r] < last_ready[best]
            if best < 0 or load < fewest or tied:
                best, fewest = r, load
    return best


@compiled
def nth_serving(sim: Sim, i: int, n: int) -> int:
    """Return the index of the n-th replica that serves request `i`."""
    for r in range(len(sim.fleet.model)):
        if serves(sim, r, i):
            if n == 0:
                return r
            n -= 1
    return -1


@compiled
def power_of_two(sim: Sim, i: int, time: float) -> int:
    """Return the less loaded of two random replicas; -1 if none is up."""
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
def round_robin(sim: Sim, i: int) -> int:
    """Return the next replica in turn that serves request `i`."""
    count = len(sim.fleet.model)
    for _ in range(count):
        r = sim.loop.counts[TURN] % count
        sim.loop.counts[TURN] += 1
        if serves(sim, r, i):
            return r  # type: ignore[no-any-return,unused-ignore]
    return -1


@compiled
def cache_aware(sim: Sim, i: int, time: float) -> int:
    """Return the replica that last received the longest known prefix of `i`, unless it is
    overloaded. The balancer remembers what it sent and does not know about evictions."""
    requests, loop = sim.requests, sim.loop
    best = least_loaded(sim, i, time)
    first, end = requests.segment_at[i], requests.segment_at[i + 1]
    if best < 0 or first == end:
        return best
    home = -1
    for at in range(end - 1, first - 1, -1):
        home = loop.home[requests.segment[at]]
        if home >= 0:
            break
    if home >= 0 and serves(sim, home, i):
        load, fewest = load_of(sim, home, time), load_of(sim, best, time)
        if load - fewest <= IMBALANCE or load <= IMBALANCE_RATIO * fewest:
            best = home
    for at in range(first, end):
        loop.home[requests.segment[at]] = best
    return best


@compiled
def prefix_aware(sim: Sim, i: int) -> int:
    """Return the replica with the smallest sum of prompt blocks left to compute (including waiting
    ones) and cache blocks in use, like NVIDIA Dynamo's router. It knows what each replica has
    cached. Ties rotate."""
    requests, replicas, fleet = sim.requests, sim.replicas, sim.fleet
    count = len(fleet.model)
    sim.loop.counts[TURN] += 1
    best, lowest = -1, 0
    for k in range(count):
        r = (sim.loop.counts[TURN] + k) % count
        if serves(sim, r, i):
            hits = found(sim, r, i, requests.isl[i])[0] * fleet.block[r]
            used = (replicas.kv_used[r] - replicas.evictable[r]) * fleet.block[r]
            cost = requests.isl[i] - hits + replicas.queued[r] + used
            if best < 0 or cost < lowest:
                best, lowest = r, cost
    return best


@compiled
def session_sticky(sim: Sim, i: int, time: float) -> int:
    """Return the replica of the session's earlier turns if it is up; else the least loaded."""
    session = sim.requests.session[i]
    if session < 0:
        return least_loaded(sim, i, time)
    home = sim.loop.session_home[session]
    if home < 0 or not serves(sim, home, i):
        home = least_loaded(sim, i, time)
        sim.loop.session_home[session] = home
    return home  # type: ignore[no-any-return,unused-ignore]


@compiled
def pick(sim: Sim, i: int, time: float, policy: int) -> int:
    """Return the replica for request `i`; -1 if none is up."""
    if policy == ROUND_ROBIN:
        return round_robin(sim, i)
    if policy == POWER_OF_TWO:
        return power_of_two(sim, i, time)
    if policy == CACHE_AWARE:
        return cache_aware(sim, i, time)
    if policy == PREFIX_AWARE:
        return prefix_aware(sim, i)
    if policy == SESSION_STICKY:
        return session_sticky(sim, i, time)
    return least_loaded(sim, i, time)


@compiled
def dispatch(sim: Sim, i: int, time: float, policy: int) -> None:
    """Send request `i` to a replica; reject it at once if it can never fit there."""
    fleet, requests, replicas = sim.fleet, sim.requests, sim.replicas
    r = pick(sim, i, time, policy)
    tokens = requests.isl[i] + requests.osl[i]
    if r < 0 or too_long(sim, r, tokens):
        requests.status[i] = FAILED if r < 0 else REJECTED
        waits = r < 0 and len(sim.loop.slots) > 1
        answered(requests, sim.loop, i, time + GIVE_UP_S if waits else time)
        return
    requests.replica[i] = r
    idle = replicas.running[r] == 0 and replicas.waiting[r] == 0 and replicas.partial[r] < 0
    pp = fleet.pp_size[fleet.table[r]]
    sequences = (replicas.running[r] + pp - 1) // pp
    step = 0.0 if idle else fleet.decode[fleet.table[r], sequences]
    ready = receive(sim, r, i, time) + fleet.delay_steps[r] * step
    ready = max(ready, replicas.last_ready[r])
    requests.ready[i] = ready
    replicas.last_ready[r] = ready
    replicas.outstanding[r] += 1
    if policy == PREFIX_AWARE:
        requests.queued[i] = requests.isl[i] - found(sim, r, i, requests.isl[i])[0] * fleet.block[r]
        replicas.queued[r] += requests.queued[i]
    if idle:
        replicas.now[r] = max(replicas.now[r], time)
    append(requests, replicas, r, i)


@compiled
def too_long(sim: Sim, r: int, tokens: int) -> bool:
    """Return whether replica `r` can never serve a request of `tokens` in total."""
    block = sim.fleet.block[r]
    blocks = (tokens - 1 + block - 1) // block
    return bool(blocks > sim.fleet.kv_blocks[r] or tokens > sim.fleet.max_context[r])


@compiled
def cut(sim: Sim, i: int, time: float) -> None:
    """Record request `i` as cut while it was being answered."""
    sim.requests.status[i] = FAILED
    answered(sim.requests, sim.loop, i, time)


@compiled
def fail(sim: Sim, r: int, time: float, policy: int) -> None:
    """Stop replica `r`: started streams are cut, other requests go to another replica."""
    requests, replicas = sim.requests, sim.replicas
    replicas.up[r] = DOWN
    for k in range(replicas.running[r]):
        cut(sim, replicas.heap_id[r, k], time)
    again = replicas.partial[r]
    replicas.running[r], replicas.context[r], replicas.heap_sum[r] = 0, 0, 0
    replicas.partial[r], replicas.outstanding[r], replicas.queued[r] = -1, 0, 0
    replicas.phase[r, :] = 0
    replicas.front[r], replicas.front_before[r] = time, time
    forget(sim, r)
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
            requests.kept[i], requests.queued[i] = 0, 0
            dispatch(sim, i, time, policy)
        i = following


@compiled
def recover(sim: Sim, r: int, time: float) -> None:
    """Restart replica `r` empty; a draining one continues with its requests."""
    replicas = sim.replicas
    draining = replicas.up[r] == DRAINING
    replicas.up[r] = UP
    if draining and replicas.outstanding[r] > 0:
        return
    forget(sim, r)
    replicas.now[r] = max(time, replicas.now[r])
    replicas.last_ready[r] = replicas.now[r]
    replicas.last_done[r] = 0
