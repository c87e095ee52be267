"""Prefix cache of a replica: blocks keyed by their prefix, the oldest evicted first.

As in vLLM: full blocks are keyed by a hash of all tokens up to their end. Those of a finished
request stay until the room is needed. The request that ended longest ago is evicted first, from
its last block to its first. The blocks of a segment are one entry with a count; the remaining
blocks of a request are another entry.
"""

from __future__ import annotations

from shardwise.simulator.compiling import compiled
from shardwise.simulator.state import Replicas, Requests, Sim


@compiled
def own_blocks(requests: Requests, at: int, tokens: int, start: int, block: int) -> int:
    """Return the full blocks of segment `requests.segment[at]` in a prompt of `tokens`, starting
    with block `start`."""
    end = min(requests.segment_end[requests.segment[at]], tokens)
    return max(end // block - start, 0)  # type: ignore[no-any-return,unused-ignore]


@compiled
def found(sim: Sim, r: int, i: int, tokens: int) -> tuple[int, int, int]:
    """Return the cached blocks of a prompt of `tokens` that replica `r` can use, all that it
    holds, and how many of these count as evictable. The last token is always computed."""
    requests, replicas, block = sim.requests, sim.replicas, sim.fleet.block[r]
    blocks, hits, held, idle, unbroken = 0, 0, 0, 0, True
    if sim.fleet.caching[r] == 0:
        return 0, 0, 0
    for at in range(requests.segment_at[i], requests.segment_at[i + 1]):
        s = requests.segment[at]
        full = own_blocks(requests, at, tokens, blocks, block)
        if unbroken:
            hits = blocks + min(replicas.kept[r, s], full)
            unbroken = replicas.kept[r, s] >= full
        held += min(replicas.kept[r, s], full)
        if replicas.refs[r, s] == 0:
            idle += min(replicas.kept[r, s], full)
        blocks += full
    return min(hits, (tokens - 1) // block), held, idle


@compiled
def unlink(requests: Requests, replicas: Replicas, r: int, entry: int) -> None:
    """Remove `entry` from replica `r`'s eviction order."""
    size = replicas.kept.shape[1]
    if entry < size:
        before, after = replicas.before[r, entry], replicas.after[r, entry]
    else:
        before, after = requests.before[entry - size], requests.after[entry - size]
    if before < 0:
        replicas.oldest[r] = after
    elif before < size:
        replicas.after[r, before] = after
    else:
        requests.after[before - size] = after
    if after < 0:
        replicas.newest[r] = before
    elif after < size:
        replicas.before[r, after] = before
    else:
        requests.before[after - size] = before


@compiled
def link_newest(requests: Requests, replicas: Replicas, r: int, entry: int) -> None:
    """Append `entry` to replica `r`'s eviction order."""
    size, last = replicas.kept.shape[1], replicas.newest[r]
    if entry < size:
        replicas.before[r, entry], replicas.after[r, entry] = last, -1
    else:
        requests.before[entry - size], requests.after[entry - size] = last, -1
    if last < 0:
        replicas.oldest[r] = entry
    elif last < size:
        replicas.after[r, last] = entry
    else:
        requests.after[last - size] = entry
    replicas.newest[r] = entry


@compiled
def drop_own(requests: Requests, replicas: Replicas, r: int, i: int) -> None:
    """Drop the blocks that request `i` left when it was preempted; they are recomputed."""
    unlink(requests, replicas, r, replicas.kept.shape[1] + i)
    replicas.kv_used[r] -= requests.kept[i]
    replicas.evictable[r] -= requests.kept[i]
    requests.kept[i] = 0


@compiled
def trim(replicas: Replicas, r: int, s: int, wanted: int) -> None:
    """Drop the blocks of segment `s` beyond those `wanted`. In use, they could not be evicted, and
    might leave too little room for the request that uses the others."""
    excess = replicas.kept[r, s] - wanted
    if excess > 0:
        replicas.kept[r, s] -= excess
        replicas.kv_used[r] -= excess


@compiled
def hold_segments(sim: Sim, r: int, i: int, tokens: int) -> int:
    """Mark the segment blocks of request `i` in a prompt of `tokens` as used and store missing
    ones. Returns the number of stored blocks."""
    requests, replicas, block = sim.requests, sim.replicas, sim.fleet.block[r]
    blocks, stored = 0, 0
    if requests.kept[i] > 0:
        drop_own(requests, replicas, r, i)
    if sim.fleet.caching[r] == 1:
        for at in range(requests.segment_at[i], requests.segment_at[i + 1]):
            s = requests.segment[at]
            wanted = own_blocks(requests, at, tokens, blocks, block)
            if replicas.refs[r, s] == 0 and replicas.kept[r, s] > 0:
                unlink(requests, replicas, r, s)
                replicas.evictable[r] -= replicas.kept[r, s]
                trim(replicas, r, s, wanted)
            replicas.refs[r, s] += 1
            stored += max(wanted - replicas.kept[r, s], 0)
            replicas.kept[r, s] = max(replicas.kept[r, s], wanted)
            blocks += wanted
    requests.shared[i] = blocks
    return stored


@compiled
def leave(sim: Sim, r: int, i: int, tokens: int) -> None:
    """Release request `i`'s blocks of `tokens` tokens; cached ones stay."""
    requests, replicas, block = sim.requests, sim.replicas, sim.fleet.block[r]
    private = (tokens + block - 1) // block - requests.shared[i]
    size = replicas.kept.shape[1]
    if sim.fleet.caching[r] == 0 or size == 0:
        replicas.kv_used[r] -= private
        return
    first, end = requests.segment_at[i], requests.segment_at[i + 1]
    blocks = 0
    for at in range(first, end):
        s = requests.segment[at]
        wanted = own_blocks(requests, at, tokens, blocks, block)
        grown = min(max(wanted - replicas.kept[r, s], 0), private)
        replicas.kept[r, s] += grown
        private -= grown
        blocks += wanted
    if private > 0:
        requests.kept[i] = private
        link_newest(requests, replicas, r, size + i)
        replicas.evictable[r] += private
    for at in range(end - 1, first - 1, -1):
        s = requests.segment[at]
        replicas.refs[r, s] -= 1
        if replicas.refs[r, s] == 0 and replicas.kept[r, s] > 0:
            link_newest(requests, replicas, r, s)
            replicas.evictable[r] += replicas.kept[r, s]


@compiled
def evict(sim: Sim, r: int, growth: int) -> bool:
    """Evict unused cached blocks, oldest first, until `growth` more fit. Returns False if
    impossible."""
    requests, replicas = sim.requests, sim.replicas
    size = replicas.kept.shape[1]
    while True:
        excess = replicas.kv_used[r] + growth - sim.fleet.kv_blocks[r]
        if excess <= 0:
            return True
        entry = replicas.oldest[r]
        if entry < 0:
            return False
        kept = replicas.kept[r, entry] if entry < size else requests.kept[entry - size]
        dropped = min(kept, excess)
        if entry < size:
            replicas.kept[r, entry] -= dropped
        else:
            requests.kept[entry - size] -= dropped
        if dropped == kept:
            unlink(requests, replicas, r, entry)
        replicas.kv_used[r] -= dropped
        replicas.evictable[r] -= dropped


@compiled
def forget(sim: Sim, r: int) -> None:
    """Clear the cache of replica `r`."""
    replicas = sim.replicas
    replicas.kept[r, :], replicas.refs[r, :] = 0, 0
    replicas.oldest[r], replicas.newest[r] = -1, -1
    replicas.kv_used[r], replicas.evictable[r] = 0, 0
