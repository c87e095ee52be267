"""Queues, heaps and the timeline of the inner loop."""

from __future__ import annotations

from shardwise.simulator.compiling import compiled
from shardwise.simulator.state import (
    BINS,
    COUNTED,
    KV_USED,
    OPEN,
    PENDING_TURNS,
    RUNNING,
    SLOTS,
    WAITING,
    Loop,
    Replicas,
    Requests,
    Sim,
)
from shardwise.simulator.trace import Floats, Ints


@compiled
def append(requests: Requests, replicas: Replicas, r: int, i: int) -> None:
    """Append request `i` to replica `r`'s queue."""
    requests.next[i] = -1
    if replicas.tail[r] < 0:
        replicas.head[r] = i
    else:
        requests.next[replicas.tail[r]] = i
    replicas.tail[r] = i
    replicas.waiting[r] += 1


@compiled
def prepend(requests: Requests, replicas: Replicas, r: int, i: int) -> None:
    """Put preempted request `i` at the front of replica `r`'s queue."""
    requests.next[i] = replicas.head[r]
    replicas.head[r] = i
    if replicas.tail[r] < 0:
        replicas.tail[r] = i
    replicas.waiting[r] += 1


@compiled
def pop(requests: Requests, replicas: Replicas, r: int) -> int:
    """Remove and return the first of replica `r`'s queue."""
    i = replicas.head[r]
    replicas.head[r] = requests.next[i]
    if replicas.head[r] < 0:
        replicas.tail[r] = -1
    replicas.waiting[r] -= 1
    return i  # type: ignore[no-any-return,unused-ignore]


@compiled
def heap_up(key: Ints, value: Ints, at: int) -> None:
    """Restore the heap after `key[at]` became smaller."""
    while at > 0:
        parent = (at - 1) // 2
        if key[parent] <= key[at]:
            return
        key[parent], key[at] = key[at], key[parent]
        value[parent], value[at] = value[at], value[parent]
        at = parent


@compiled
def heap_down(key: Ints, value: Ints, at: int, size: int) -> None:
    """Restore the heap of `size` items after `key[at]` became larger."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and key[child + 1] < key[child]:
            child += 1
        if key[at] <= key[child]:
            return
        key[child], key[at] = key[at], key[child]
        value[child], value[at] = value[at], value[child]
        at = child


@compiled
def heap_remove(key: Ints, value: Ints, at: int, size: int) -> None:
    """Remove the element at `at` from a heap of `size`."""
    last = size - 1
    key[at], value[at] = key[last], value[last]
    if at < last:
        heap_down(key, value, at, last)
        heap_up(key, value, at)


@compiled
def free_slot(loop: Loop, time: float) -> None:
    """Add `time`, at which a closed-loop client may send its next request, to the heap."""
    slots = loop.slots
    if len(slots) < 2:
        return
    at = loop.counts[SLOTS]
    slots[at] = time
    loop.counts[SLOTS] += 1
    while at > 0 and slots[(at - 1) // 2] > slots[at]:
        parent = (at - 1) // 2
        slots[parent], slots[at] = slots[at], slots[parent]
        at = parent


@compiled
def push_turn(loop: Loop, i: int, time: float) -> None:
    """Schedule request `i`, a further turn of a session, at `time`."""
    times, ids = loop.turn_time, loop.turn_id
    at = loop.counts[PENDING_TURNS]
    times[at], ids[at] = time, i
    loop.counts[PENDING_TURNS] += 1
    while at > 0 and times[(at - 1) // 2] > times[at]:
        parent = (at - 1) // 2
        times[parent], times[at] = times[at], times[parent]
        ids[parent], ids[at] = ids[at], ids[parent]
        at = parent


@compiled
def pop_turn(loop: Loop) -> int:
    """Remove and return the earliest scheduled turn."""
    times, ids = loop.turn_time, loop.turn_id
    i = ids[0]
    size = loop.counts[PENDING_TURNS] - 1
    loop.counts[PENDING_TURNS] = size
    times[0], ids[0] = times[size], ids[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and times[child + 1] < times[child]:
            child += 1
        if times[at] <= times[child]:
            break
        times[at], times[child] = times[child], times[at]
        ids[at], ids[child] = ids[child], ids[at]
        at = child
    return i  # type: ignore[no-any-return,unused-ignore]


@compiled
def answered(requests: Requests, loop: Loop, i: int, time: float) -> None:
    """Notify the client of request `i` at `time`; it sends the next request when due."""
    requests.finish[i] = time
    if i < loop.counts[COUNTED]:
        loop.counts[OPEN] -= 1
    free_slot(loop, time)
    following = requests.next_turn[i]
    if following >= 0:
        push_turn(loop, following, time + requests.think_s[following])


@compiled
def take_slot(loop: Loop) -> float:
    """Remove the earliest free slot and return its time."""
    slots: Floats = loop.slots
    time = slots[0]
    size = loop.counts[SLOTS] - 1
    loop.counts[SLOTS] = size
    slots[0] = slots[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and slots[child + 1] < slots[child]:
            child += 1
        if slots[at] <= slots[child]:
            break
        slots[at], slots[child] = slots[child], slots[at]
        at = child
    return time  # type: ignore[no-any-return,unused-ignore]


@compiled
def record(sim: Sim, r: int, busy: int, start: float, end: float) -> None:
    """Add replica `r`'s state from `start` to `end` to the timeline; `busy` requests are
    computed."""
    loop, replicas = sim.loop, sim.replicas
    kv_tokens = (replicas.kv_used[r] - replicas.evictable[r]) * sim.fleet.block[r]
    width = loop.bin_s[0]
    while end >= width * BINS:
        for b in range(BINS // 2):
            for column in range(3):
                loop.timeline[b, column] = (
                    loop.timeline[2 * b, column] + loop.timeline[2 * b + 1, column]
                )
        for b in range(BINS // 2, BINS):
            for column in range(3):
                loop.timeline[b, column] = 0.0
        width *= 2.0
        loop.bin_s[0] = width
    at = start
    b = int(at / width)
    while at < end and b < BINS:
        upto = min(end, (b + 1) * width)
        loop.timeline[b, RUNNING] += busy * (upto - at)
        loop.timeline[b, WAITING] += replicas.waiting[r] * (upto - at)
        loop.timeline[b, KV_USED] += kv_tokens * (upto - at)
        at = upto
        b += 1
