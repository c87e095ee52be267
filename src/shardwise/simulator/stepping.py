"""Advance one replica: continuous batching with chunked prefill, many steps at once.

Decodes go first; prompts fill the rest of the step's token budget in order of arrival, as memory
and `max_num_seqs` allow. An engine that does not mix computes prompts first, in steps without
decodes. When the cache is full, the most recently admitted request is preempted and recomputed
(vLLM's recompute policy). While the batch does not change, the time of k steps is quadratic in k,
because every sequence reads one more token per step.
"""

from __future__ import annotations

import math
from typing import Final

from shardwise.perfmodel.step import HOST_KNEE, PIECEWISE_SHARE
from shardwise.simulator.compiling import compiled, entry
from shardwise.simulator.frontend import deliver
from shardwise.simulator.memory import (
    admit,
    fits,
    growth_of,
    make_room,
    steps_within,
    stop_decoding,
)
from shardwise.simulator.prefixes import evict, leave
from shardwise.simulator.queues import answered, heap_up, pop, record
from shardwise.simulator.state import ADMITTED, DONE, JUMPS, Sim
from shardwise.simulator.surface import read_at

MANY: Final = 1 << 40  #: tokens


@entry
def base_and_slope(sim: Sim, r: int) -> tuple[float, float, int]:
    """Seconds that replica `r`'s sequences take to their next token, what each further one adds,
    and for how many tokens that holds. Where tokens are drafted a step gives several, and a token
    takes its share of it."""
    fleet, n = sim.fleet, sim.replicas.running[r]
    k = fleet.table[r]
    micro = (n + fleet.pp_size[k] - 1) // fleet.pp_size[k]
    if n == 0:
        return fleet.decode[k, micro], 0.0, MANY
    context = sim.replicas.context[r] / n
    own = max(n / (fleet.pp_size[k] * fleet.copies[k]), 1.0)
    read, slope, end = read_at(fleet.reads, k, own, context)
    holds = MANY if math.isinf(end) else max(1, math.ceil(end - context))
    return fleet.decode[k, micro] + read, slope, holds


@entry
def mixed_step_s(
    sim: Sim, r: int, n: int, tokens: int, largest: int, attention_s: float
) -> tuple[float, float]:
    """Seconds of a step of replica `r` that prefills `tokens` beside `n` decodes: all that run,
    or none. `largest` of the tokens are of one prompt, which one micro-batch and one copy of
    attention computes: the others wait for the fullest. Gives the whole step, and the time until
    each sequence has one more token, which is less where tokens are drafted.

    Tables of prompt tokens, and of what sequences add beside their tokens, are enough: weights,
    compute and communication depend on n + p alone, and the output head on n + 1.
    """
    fleet = sim.fleet
    k = fleet.table[r]
    pp, copies, q = fleet.pp_size[k], fleet.copies[k], fleet.queries[k]
    s = (n + pp - 1) // pp
    fullest = max(largest, (tokens + pp * copies - 1) // (pp * copies))
    batch = max(fullest, (tokens + pp - 1) // pp)  # tokens of the fullest micro-batch
    token = base_and_slope(sim, r)[0] if n > 0 else 0.0
    alone = token * fleet.yields[k]
    read = alone - fleet.decode[k, s] * fleet.yields[k] if n > 0 else 0.0
    whole = fleet.prompt[k, q * s + batch] + fleet.beside[k, s] + read
    whole += attention_s * fullest / max(tokens, 1)
    if copies > 1:
        even = (q * s + batch + copies - 1) // copies
        whole += fleet.copy[k, (q * s + copies - 1) // copies + fullest] - fleet.copy[k, even]
    whole += launch_wait_s(sim, k, s, batch, whole)
    return whole, token + whole - alone


@compiled
def launch_wait_s(sim: Sim, k: int, sequences: int, tokens: int, step_s: float) -> float:
    """What a step with prompts waits for the host that launches it: the smooth maximum of both,
    less the device's own time (shardwise.perfmodel.step.smooth_maximum, without its arrays)."""
    launch = sim.fleet.launch[k]
    if launch[0] <= 0.0:
        return 0.0
    beside = launch[1] + launch[2] * sequences + launch[3] * (sequences + tokens)
    device = step_s - beside
    host = launch[0]
    if sim.fleet.queries[k] * sequences + tokens <= sim.fleet.graph_tokens[k]:
        host *= PIECEWISE_SHARE
    return float((device**HOST_KNEE + host**HOST_KNEE) ** (1.0 / HOST_KNEE) - device)


@entry
def attention_of(sim: Sim, r: int, tokens: int, start: int) -> float:
    """Return the attention seconds of a chunk of `tokens` after `start` earlier tokens of the
    prompt."""
    return read_at(sim.fleet.scores, sim.fleet.table[r], float(tokens), start + tokens / 2.0)[0]


@compiled
def finish(sim: Sim, r: int, i: int, time: float) -> None:
    """Finish request `i`, whose client gets its last token at `time`."""
    requests, replicas = sim.requests, sim.replicas
    leave(sim, r, i, requests.isl[i] + requests.osl[i] - 1)
    replicas.outstanding[r] -= 1
    replicas.last_done[r] += 1
    requests.generated[i] = requests.osl[i]
    requests.status[i] = DONE
    answered(requests, sim.loop, i, time)


@compiled
def start_decoding(sim: Sim, r: int, i: int, time: float) -> None:
    """Start decoding `i` after its prompt; its first token arrives at `time`."""
    requests, replicas = sim.requests, sim.replicas
    if math.isnan(requests.first[i]):
        requests.first[i] = time
    context = requests.isl[i] + requests.generated[i]
    requests.generated[i] += 1
    left = requests.osl[i] - requests.generated[i]
    if left == 0:
        finish(sim, r, i, time)
        return
    n = replicas.running[r]
    ends = replicas.steps[r] + left
    replicas.heap_step[r, n] = ends
    replicas.heap_id[r, n] = i
    heap_up(replicas.heap_step[r], replicas.heap_id[r], n)
    replicas.heap_sum[r] += ends
    replicas.running[r] = n + 1
    replicas.context[r] += context
    replicas.phase[r, (context - replicas.steps[r]) % sim.fleet.block[r]] += 1


@compiled
def start_all(sim: Sim, r: int, first: int, time: float) -> None:
    """Call `start_decoding` for the requests linked from `first`."""
    i = first
    while i >= 0:
        following = sim.requests.next[i]
        start_decoding(sim, r, i, time)
        i = following


@compiled
def end_steps(sim: Sim, r: int, steps: int, time: float) -> None:
    """Account for `steps` decode steps, whose last tokens arrive at `time`; retire finished
    sequences."""
    requests, replicas = sim.requests, sim.replicas
    replicas.steps[r] += steps
    replicas.context[r] += steps * replicas.running[r]
    key, value = replicas.heap_step[r], replicas.heap_id[r]
    while replicas.running[r] > 0 and key[0] == replicas.steps[r]:
        i = value[0]
        stop_decoding(sim, r, 0, requests.isl[i] + requests.osl[i] - 1)
        finish(sim, r, i, time)


@compiled
def prompt_room(sim: Sim, r: int, n: int) -> int:
    """Prompt tokens of one prompt that a step of replica `r` has room for beside `n` decodes: of
    one micro-batch and copy of attention."""
    k = sim.fleet.table[r]
    lanes = sim.fleet.pp_size[k] * sim.fleet.copies[k]
    return sim.fleet.max_tokens[r] - (n * sim.fleet.queries[k] + lanes - 1) // lanes  # type: ignore[no-any-return,unused-ignore]


@compiled
def can_admit(sim: Sim, r: int, seqs: int, budget: int, growth: int) -> bool:
    """Return whether the head of the queue may start now, in addition to `growth` blocks."""
    replicas, head = sim.replicas, sim.replicas.head[r]
    if head < 0 or budget <= 0 or seqs >= sim.fleet.max_seqs[r]:
        return False
    return sim.requests.ready[head] <= replicas.now[r] and fits(sim, r, head, growth)


@compiled
def prompt_step(sim: Sim, r: int) -> None:
    """Run one step of prompts, with all decodes, or without them if the engine does not mix."""
    requests, replicas, loop = sim.requests, sim.replicas, sim.loop
    start, running = replicas.now[r], replicas.running[r]
    n = running if sim.fleet.mixed[r] == 1 else 0
    if n > 0:
        replicas.kv_used[r] += growth_of(sim, r, 1)
    most = prompt_room(sim, r, n)
    lanes = sim.fleet.pp_size[sim.fleet.table[r]] * sim.fleet.copies[sim.fleet.table[r]]
    budget = most * lanes
    tokens, largest, attention_s, fresh, newest = 0, 0, 0.0, -1, -1
    seqs, begun = running, 0
    while budget > 0:
        if replicas.partial[r] >= 0:
            i, left = replicas.partial[r], replicas.partial_left[r]
        elif can_admit(sim, r, seqs, budget, 0):
            i = pop(requests, replicas, r)
            requests.order[i] = loop.counts[ADMITTED]
            loop.counts[ADMITTED] += 1
            left = requests.isl[i] + requests.generated[i] - admit(sim, r, i)
        else:
            break
        seqs += 1
        chunk = min(left, budget, most)
        before = requests.isl[i] + requests.generated[i] - left
        attention_s += attention_of(sim, r, chunk, before)
        tokens += chunk
        largest = max(largest, chunk)
        budget -= chunk
        replicas.partial[r] = -1
        if chunk < left:
            replicas.partial[r], replicas.partial_left[r] = i, left - chunk
            break
        begun += 1
        requests.next[i] = -1
        if fresh < 0:
            fresh = i
        else:
            requests.next[newest] = i
        newest = i
    whole, token = mixed_step_s(sim, r, n, tokens, largest, attention_s)
    end = start + token
    replicas.kv_peak[r] = max(replicas.kv_peak[r], replicas.kv_used[r])
    record(sim, r, seqs, start, end)
    replicas.now[r] = end
    seen = deliver(sim, r, n + begun, 1, end, end)
    if n > 0:
        end_steps(sim, r, 1, seen)
    start_all(sim, r, fresh, seen + whole - token)


@compiled
def steps_until(base: float, slope: float, seconds: float) -> int:
    """Return the fewest steps that take at least `seconds`: base k + slope k (k - 1) / 2 >=
    seconds."""
    half = slope / 2.0
    b = base - half
    if half * seconds < 1e-9 * b * b:
        k = seconds / b
    else:
        k = (-b + math.sqrt(b * b + 4.0 * half * seconds)) / (2.0 * half)
    return max(1, math.ceil(k - 1e-9))


@compiled
def decode_jump(sim: Sim, r: int, until: float) -> None:
    """Run decode steps until another event, but none that starts after `until`."""
    fleet, replicas = sim.fleet, sim.replicas
    n, start = replicas.running[r], replicas.now[r]
    base, slope, holds = base_and_slope(sim, r)
    steps = replicas.heap_step[r, 0] - replicas.steps[r]
    room = fleet.kv_blocks[r] - replicas.kv_used[r] + replicas.evictable[r]
    steps = min(steps, steps_within(sim, r, room), holds)
    if until < 1e300:
        steps = min(steps, steps_until(base, slope, until - start))
    replicas.kv_used[r] += growth_of(sim, r, steps)
    evict(sim, r, 0)
    replicas.kv_peak[r] = max(replicas.kv_peak[r], replicas.kv_used[r])
    end = start + base * steps + slope * (steps * (steps - 1) / 2.0)
    record(sim, r, n, start, end)
    replicas.now[r] = end
    seen = deliver(sim, r, n, steps, start + base, end)
    end_steps(sim, r, steps, seen)


@compiled
def advance(sim: Sim, r: int, until: float) -> None:
    """Advance replica `r` to the first step boundary at or after `until`, or until it is idle."""
    requests, replicas = sim.requests, sim.replicas
    while replicas.now[r] < until:
        n, head = replicas.running[r], replicas.head[r]
        if n == 0 and replicas.partial[r] < 0:
            if head < 0:
                return
            if requests.ready[head] > replicas.now[r]:
                if requests.ready[head] >= until:
                    return
                record(sim, r, 0, replicas.now[r], requests.ready[head])
                replicas.now[r] = requests.ready[head]
        sim.loop.counts[JUMPS] += 1
        replicas.last_done[r] = 0
        preempted = make_room(sim, r)
        n, head = replicas.running[r], replicas.head[r]
        budget = prompt_room(sim, r, n * sim.fleet.mixed[r])
        if replicas.partial[r] >= 0 or (
            not preempted and can_admit(sim, r, n, budget, growth_of(sim, r, 1))
        ):
            prompt_step(sim, r)
        elif n > 0:
            bound = until
            if head >= 0 and requests.ready[head] > replicas.now[r]:
                bound = min(until, requests.ready[head])
            decode_jump(sim, r, bound)
