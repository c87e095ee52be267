"""The arrays of the inner loop.

R replicas, N requests, S shared prompt segments, K step tables. KV cache is counted in blocks.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise.simulator.surface import Surfaces
from shardwise.simulator.trace import Floats, Ints, Trace

#: Outcomes of a request.
PENDING: Final = 0
DONE: Final = 1
REJECTED: Final = 2  #: can never fit the KV cache or the context
FAILED: Final = 3  #: cut in mid-stream by a failure, or no replica was up
STATUSES: Final = ("pending", "done", "rejected", "failed")

#: States of a replica.
DOWN: Final = 0
UP: Final = 1
DRAINING: Final = 2  #: finishes its requests and accepts no more

#: Columns of the timeline: requests, and tokens of cache in use, times seconds, per bin.
RUNNING: Final = 0
WAITING: Final = 1
KV_USED: Final = 2
BINS: Final = 256

#: Positions in `Loop.counts`.
SLOTS: Final = 0  #: free client slots of a closed loop
ISSUED: Final = 1
ADMITTED: Final = 2
JUMPS: Final = 3
PREEMPTED: Final = 4
TURN: Final = 5  #: of the round robin
PENDING_TURNS: Final = 6  #: further turns of sessions whose time of arrival is known
TURNS_LEFT: Final = 7  #: further turns of sessions that have not been sent
LEAST_OSL: Final = 8  #: of all requests
COUNTED: Final = 9  #: requests of a closed loop that the results cover: the first so many
OPEN: Final = 10  #: of these, sent and not yet answered
COUNTS: Final = 11


class Fleet(NamedTuple):
    """Constants: the replicas, their limits and their step times in seconds."""

    model: Ints  #: [R]
    table: Ints  #: [R] which step table
    max_seqs: Ints  #: [R]
    max_tokens: Ints  #: [R] token budget of a step, of a micro-batch and copy of attention
    kv_blocks: Ints  #: [R]
    block: Ints  #: [R] tokens of a block
    mixed: Ints  #: [R] 1: prompts run beside decodes; 0: before them, in steps of their own
    caching: Ints  #: [R] 1: blocks of finished requests are kept for others with the same prefix
    reserve: Floats  #: [R] share of the tokens still to come that admission keeps free
    max_context: Ints  #: [R] tokens of one request
    delay_s: Floats  #: [R] from arrival until the scheduler sees the request, on an idle server
    tokenize_s: Floats  #: [R] the same, per token of the prompt
    delay_steps: Floats  #: [R] the same, in decode steps of the batch then running
    request_s: Floats  #: [R] time of the API server per request, for which other work waits
    token_s: Floats  #: [R] the API server's time for each output token
    least_step_s: Floats  #: [R] no step is shorter
    pp_size: Ints  #: [K]
    copies: Ints  #: [K] of attention; a prompt is computed by one of them
    queries: Ints  #: [K] tokens of a sequence in a decode step: one, and those drafted
    yields: Floats  #: [K] mean tokens that a decode step gives a sequence
    decode: Floats  #: [K, max_seqs + 2] s a token of so many sequences with an empty context
    prompt: Floats  #: [K, max_tokens + 2] step of so many prompt tokens and no sequence
    beside: Floats  #: [K, max_seqs + 2] what so many sequences add beside their tokens
    copy: Floats  #: [K, max_tokens + 2] so many prompt tokens in one copy, without experts
    reads: (
        Surfaces  #: s a token, by sequences of a micro-batch in one copy of attention and context
    )
    scores: Surfaces  #: s of a step, by prompt tokens of one prompt and tokens before them
    launch: Floats  #: [K, 4] of a step with prompts; beside the device a step, sequence, token
    graph_tokens: Floats  #: [K] of the largest step with prompts that runs as piecewise graphs


class Requests(NamedTuple):
    """Requests and their outcomes; all [N] unless noted."""

    arrival: Floats
    isl: Ints
    osl: Ints
    model: Ints
    segment_at: Ints  #: [N + 1] where a request's segments begin in `segment`
    segment: Ints  #: ids of shared segments, from the start of each prompt on
    segment_end: Ints  #: [S] tokens from the prompt's start to a segment's end
    session: Ints  #: -1: none
    next_turn: Ints  #: request that follows in the session, -1: none
    think_s: Floats  #: from the answer to the previous turn until this one
    received: Ints  #: 1: its KV cache comes with it, but for the prompt's last token
    ready: Floats
    first: Floats
    finish: Floats
    status: Ints
    replica: Ints
    generated: Ints
    preemptions: Ints
    cached: Ints  #: prompt tokens found in the prefix cache, at the first admission
    queued: Ints  #: prompt tokens that the balancer counts as waiting
    shared: Ints  #: blocks held that belong to segments
    kept: Ints  #: blocks of its own left in the cache after it ended
    before: Ints  #: neighbours of those in the order of eviction
    after: Ints
    order: Ints  #: of admission
    next: Ints  #: the queue, as linked lists


class Replicas(NamedTuple):
    """Variables of each replica, [R] unless noted."""

    up: Ints
    now: Floats  #: end of the step in flight
    steps: Ints
    head: Ints
    tail: Ints
    waiting: Ints
    running: Ints  #: sequences decoding
    heap_step: Ints  #: [R, max_seqs] step at which each running sequence ends, a heap
    heap_id: Ints
    heap_sum: Ints  #: of `heap_step` over the running sequences
    context: Ints  #: sum over the running sequences
    phase: Ints  #: [R, block] running sequences by (context - steps) modulo the block size
    kv_used: Ints  #: blocks, cached ones among them
    evictable: Ints  #: cached blocks that nobody uses
    partial: Ints  #: request whose prompt is half done, -1: none
    partial_left: Ints
    outstanding: Ints
    queued: Ints  #: prompt tokens that wait, less those found cached on arrival
    last_done: Ints  #: requests that end with the step in flight
    last_ready: Floats
    front: Floats  #: when the API server has nothing left to do
    front_before: Floats  #: the same without the tokens of the step in flight
    kept: NDArray[np.int32]  #: [R, S] blocks of each segment in the cache
    refs: NDArray[np.int32]  #: [R, S] requests that use them
    before: NDArray[np.int32]  #: [R, S] neighbours in the order of eviction
    after: NDArray[np.int32]
    oldest: Ints  #: the entry evicted first, -1: none; S + i is what request i left
    newest: Ints
    kv_peak: Ints


class Loop(NamedTuple):
    """Other variables: closed-loop slots, sessions, counters, the timeline and random numbers."""

    slots: Floats
    first_turns: Ints  #: requests that no other precedes in a session, in order of arrival
    turn_time: Floats  #: heap of further turns by time of arrival
    turn_id: Ints
    counts: Ints
    timeline: Floats  #: [BINS, 3]
    bin_s: Floats  #: [1] width, doubled when time runs over
    coins: Floats  #: [N, 2] uniform
    home: Ints  #: [S] replica a segment was last sent to
    session_home: Ints  #: the same of sessions


class Sim(NamedTuple):
    """All arrays, passed as one argument."""

    fleet: Fleet
    requests: Requests
    replicas: Replicas
    loop: Loop


def new_requests(trace: Trace, model: Ints) -> Requests:
    """Create the unsent requests of `trace`; `model`: index of each in the fleet."""
    n = len(trace)

    def whole(value: int) -> Ints:
        return np.full(n, value, dtype=np.int64)

    shared, sessions = trace.shared, trace.sessions
    next_turn = whole(-1)
    if sessions is not None:
        later = np.flatnonzero(sessions.previous >= 0)
        next_turn[sessions.previous[later]] = later
    return Requests(
        arrival=trace.arrival_s.astype(np.float64).copy(),
        isl=trace.isl.astype(np.int64),
        osl=trace.osl.astype(np.int64),
        model=model.astype(np.int64),
        segment_at=np.zeros(n + 1, dtype=np.int64) if shared is None else shared.at,
        segment=np.zeros(0, dtype=np.int64) if shared is None else shared.segment,
        segment_end=np.zeros(0, dtype=np.int64) if shared is None else shared.end,
        session=whole(-1) if sessions is None else sessions.session,
        next_turn=next_turn,
        think_s=np.zeros(n) if sessions is None else sessions.think_s,
        received=whole(0) if trace.received is None else trace.received,
        ready=np.zeros(n),
        first=np.full(n, np.nan),
        finish=np.full(n, np.nan),
        status=whole(PENDING),
        replica=whole(-1),
        generated=whole(0),
        preemptions=whole(0),
        cached=whole(-1),
        queued=whole(0),
        shared=whole(0),
        kept=whole(0),
        before=whole(-1),
        after=whole(-1),
        order=whole(0),
        next=whole(-1),
    )


def new_replicas(fleet: Fleet, segments: int) -> Replicas:
    """Create arrays of idle replicas, with room for `segments` shared prefixes."""
    count, seqs = len(fleet.model), int(fleet.max_seqs.max())

    def whole(value: int, *shape: int) -> Any:
        return np.full(shape or count, value, dtype=np.int64)

    def small(value: int) -> Any:  # a large trace has millions of segments
        return np.full((count, segments), value, dtype=np.int32)

    return Replicas(
        up=whole(1),
        now=np.zeros(count),
        steps=whole(0),
        head=whole(-1),
        tail=whole(-1),
        waiting=whole(0),
        running=whole(0),
        heap_step=whole(0, count, seqs + 1),
        heap_id=whole(0, count, seqs + 1),
        heap_sum=whole(0),
        context=whole(0),
        phase=whole(0, count, int(fleet.block.max())),
        kv_used=whole(0),
        evictable=whole(0),
        partial=whole(-1),
        partial_left=whole(0),
        outstanding=whole(0),
        queued=whole(0),
        last_done=whole(0),
        last_ready=np.zeros(count),
        front=np.zeros(count),
        front_before=np.zeros(count),
        kept=small(0),
        refs=small(0),
        before=small(-1),
        after=small(-1),
        oldest=whole(-1),
        newest=whole(-1),
        kv_peak=whole(0),
    )


def new_loop(slots: int, trace: Trace, seed: int) -> Loop:
    """Create the arrays of a run before its first event."""
    sessions = trace.sessions
    n = len(trace)
    first = np.arange(n) if sessions is None else np.flatnonzero(sessions.previous < 0)
    counts = np.zeros(COUNTS, dtype=np.int64)
    counts[SLOTS], counts[TURNS_LEFT] = slots, n - len(first)
    counts[LEAST_OSL] = trace.osl.min()
    return Loop(
        slots=np.zeros(slots + 1),
        first_turns=first.astype(np.int64),
        turn_time=np.zeros(n - len(first) + 1),
        turn_id=np.zeros(n - len(first) + 1, dtype=np.int64),
        counts=counts,
        timeline=np.zeros((BINS, 3)),
        bin_s=np.array([1.0 / 16]),
        coins=np.random.default_rng([seed, 7]).random((n, 2)),
        home=np.full(trace.segments, -1, dtype=np.int64),
        session_home=np.full(sessions.count if sessions else 0, -1, dtype=np.int64),
    )
