"""KV cache of a replica in blocks: admission, growth, preemption."""

from __future__ import annotations

from shardwise.simulator.compiling import compiled
from shardwise.simulator.prefixes import evict, found, hold_segments, leave
from shardwise.simulator.queues import heap_remove, prepend
from shardwise.simulator.state import PREEMPTED, Sim


@compiled
def fits(sim: Sim, r: int, i: int, growth: int) -> bool:
    """Return whether the whole prompt of `i` fits in addition to `growth` blocks, after
    eviction."""
    fleet, requests, replicas = sim.fleet, sim.requests, sim.replicas
    block = fleet.block[r]
    prompt = requests.isl[i] + requests.generated[i]
    _, held, idle = found(sim, r, i, prompt)
    free = fleet.kv_blocks[r] - replicas.kv_used[r] + replicas.evictable[r] - idle - growth
    need = (prompt + block - 1) // block - held
    if fleet.reserve[r] > 0.0 and replicas.running[r] > 0:
        left = replicas.heap_sum[r] - replicas.running[r] * replicas.steps[r]
        left += requests.osl[i] - requests.generated[i]
        need += int(fleet.reserve[r] * left) // block
    return free >= need  # type: ignore[no-any-return,unused-ignore]


@compiled
def admit(sim: Sim, r: int, i: int) -> int:
    """Allocate the blocks of the whole prompt of `i`. Returns the cached prompt tokens."""
    requests, replicas, block = sim.requests, sim.replicas, sim.fleet.block[r]
    prompt = requests.isl[i] + requests.generated[i]
    cached = found(sim, r, i, prompt)[0] * block
    if requests.received[i] == 1 and requests.generated[i] == 0:
        cached = prompt - 1
    stored = hold_segments(sim, r, i, prompt)
    replicas.kv_used[r] += stored + (prompt + block - 1) // block - requests.shared[i]
    evict(sim, r, 0)
    if requests.cached[i] < 0:
        requests.cached[i] = cached
    replicas.queued[r] -= requests.queued[i]
    requests.queued[i] = 0
    return cached  # type: ignore[no-any-return,unused-ignore]


@compiled
def growth_of(sim: Sim, r: int, steps: int) -> int:
    """Return the blocks that the running sequences of replica `r` start in the next `steps`
    steps."""
    replicas, block = sim.replicas, sim.fleet.block[r]
    whole, rest = steps // block, steps % block
    blocks = whole * replicas.running[r]
    for step in range(rest):
        blocks += replicas.phase[r, (-(replicas.steps[r] + step)) % block]
    return blocks  # type: ignore[no-any-return,unused-ignore]


@compiled
def steps_within(sim: Sim, r: int, room: int) -> int:
    """Return the steps that the running sequences can make with `room` more blocks; at least
    one."""
    replicas, block = sim.replicas, sim.fleet.block[r]
    cycles = max(room, 0) // replicas.running[r]
    left = room - cycles * replicas.running[r]
    steps = cycles * block
    for step in range(block):
        left -= replicas.phase[r, (-(replicas.steps[r] + step)) % block]
        if left < 0:
            break
        steps += 1
    return max(steps, 1)  # type: ignore[no-any-return,unused-ignore]


@compiled
def preempt(sim: Sim, r: int, i: int, tokens: int) -> None:
    """Release the blocks of `i` for `tokens` tokens; it restarts with all its tokens so far."""
    requests, replicas = sim.requests, sim.replicas
    leave(sim, r, i, tokens)
    requests.preemptions[i] += 1
    sim.loop.counts[PREEMPTED] += 1
    requests.ready[i] = 0.0
    prepend(requests, replicas, r, i)


@compiled
def preempt_last(sim: Sim, r: int) -> None:
    """Preempt the most recently admitted request of replica `r`."""
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
    stop_decoding(sim, r, last, context)
    preempt(sim, r, i, context)


@compiled
def stop_decoding(sim: Sim, r: int, at: int, context: int) -> None:
    """Remove the sequence at `at` of replica `r`'s heap, with `context` tokens, from the batch."""
    replicas = sim.replicas
    key, value = replicas.heap_step[r], replicas.heap_id[r]
    replicas.heap_sum[r] -= key[at]
    heap_remove(key, value, at, replicas.running[r])
    replicas.running[r] -= 1
    replicas.context[r] -= context
    replicas.phase[r, (context - replicas.steps[r]) % sim.fleet.block[r]] -= 1


@compiled
def make_room(sim: Sim, r: int) -> bool:
    """Make room for the next step's blocks; return True if a request was preempted."""
    preempted = False
    while not evict(sim, r, growth_of(sim, r, 1)):
        preempt_last(sim, r)
        preempted = True
    return preempted
