"""KV cache of a replica, in tokens: admission, shared prefixes, eviction, preemption."""

from __future__ import annotations

from shardwise.simulator.compiling import compiled
from shardwise.simulator.queues import heap_remove, prepend
from shardwise.simulator.state import PREEMPTED, Replicas, Requests, Sim


@compiled
def shared_tokens(requests: Requests, i: int) -> int:
    """Prompt tokens of `i` kept once for all who share them; the last token is always its own."""
    if requests.prefix[i] < 0:
        return 0
    return min(requests.prefix_size[requests.prefix[i]], requests.isl[i] - 1)  # type: ignore[no-any-return,unused-ignore]


@compiled
def admit_kv(sim: Sim, r: int, i: int, really: bool) -> bool:
    """Whether the whole prompt of `i` fits beside the coming step's tokens; if `really`, take it.

    A prefix that is cached already is neither stored nor computed again.
    """
    requests, replicas = sim.requests, sim.replicas
    prompt = requests.isl[i] + requests.generated[i]
    shared, p = shared_tokens(requests, i), requests.prefix[i]
    hit = p >= 0 and replicas.prefix_used[r, p] >= 0.0
    need = prompt - shared
    evictable = replicas.evictable[r]
    if p >= 0:
        size = requests.prefix_size[p]
        if not hit:
            need += size
        elif replicas.prefix_refs[r, p] == 0:
            evictable -= size
    growth = 0 if really else replicas.running[r]
    free = sim.fleet.kv_capacity[r] - replicas.kv_used[r] - growth
    if not really:
        return free + evictable >= need  # type: ignore[no-any-return,unused-ignore]
    if p >= 0:
        if hit and replicas.prefix_refs[r, p] == 0:
            replicas.evictable[r] -= requests.prefix_size[p]
        replicas.prefix_refs[r, p] += 1
        replicas.prefix_used[r, p] = replicas.now[r]
    requests.cached[i] = shared if hit else 0
    replicas.kv_used[r] += need
    evict(sim, r, 0)
    return True


@compiled
def release_prefix(requests: Requests, replicas: Replicas, r: int, i: int) -> int:
    """`i` leaves: its prefix may go when nobody else uses it. Gives the tokens it shared."""
    p = requests.prefix[i]
    if p < 0:
        return 0
    replicas.prefix_refs[r, p] -= 1
    if replicas.prefix_refs[r, p] == 0:
        replicas.evictable[r] += requests.prefix_size[p]
    return shared_tokens(requests, i)


@compiled
def evict(sim: Sim, r: int, growth: int) -> bool:
    """Drop unused prefixes, least recently used first, until `growth` tokens fit. False: cannot."""
    requests, replicas = sim.requests, sim.replicas
    while replicas.kv_used[r] + growth > sim.fleet.kv_capacity[r]:
        if replicas.evictable[r] == 0:
            return False
        oldest = -1
        for p in range(len(requests.prefix_size)):
            if (
                replicas.prefix_used[r, p] >= 0.0
                and replicas.prefix_refs[r, p] == 0
                and (oldest < 0 or replicas.prefix_used[r, p] < replicas.prefix_used[r, oldest])
            ):
                oldest = p
        replicas.prefix_used[r, oldest] = -1.0
        replicas.evictable[r] -= requests.prefix_size[oldest]
        replicas.kv_used[r] -= requests.prefix_size[oldest]
    return True


@compiled
def preempt(sim: Sim, r: int, i: int, held: int) -> None:
    """`i` gives back the `held` tokens it stored and starts again with all it has so far."""
    requests, replicas = sim.requests, sim.replicas
    replicas.kv_used[r] -= held - release_prefix(requests, replicas, r, i)
    requests.preemptions[i] += 1
    sim.loop.counts[PREEMPTED] += 1
    requests.ready[i] = 0.0
    prepend(requests, replicas, r, i)


@compiled
def preempt_last(sim: Sim, r: int) -> None:
    """Preempt the request that replica `r` admitted last."""
    requests, replicas = sim.requests, sim.replicas
    if replicas.partial[r] >= 0:
        i = replicas.partial[r]
        replicas.partial[r] = -1
        preempt(sim, r, i, requests.isl[i] + requests.generated[i])
        return
    key, value = replicas.heap_step[r], replicas.heap_id[r]
    last = 0
    for at in range(1, replicas.running[r]):
        if requests.order[value[at]] > requests.order[value[last]]:
            last = at
    i = value[last]
    left = key[last] - replicas.steps[r]
    requests.generated[i] = requests.osl[i] - left
    context = requests.isl[i] + requests.generated[i] - 1
    heap_remove(key, value, last, replicas.running[r])
    replicas.running[r] -= 1
    replicas.context[r] -= context
    preempt(sim, r, i, context)


@compiled
def make_room(sim: Sim, r: int, growth: int) -> bool:
    """Make `growth` tokens fit (one for each running sequence); True if someone was preempted."""
    preempted = False
    while not evict(sim, r, growth):
        preempt_last(sim, r)
        preempted = True
        if growth > 0:
            growth = sim.replicas.running[r]
    return preempted
