"""The arrays the inner loop works on. R replicas, N requests, P shared prefixes, K step tables."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: What became of a request.
PENDING: Final = 0
DONE: Final = 1
REJECTED: Final = 2  #: can never fit the KV cache or the context
FAILED: Final = 3  #: cut in mid-stream by a failure, or no replica was up
STATUSES: Final = ("pending", "done", "rejected", "failed")

#: Columns of the timeline: replica-seconds in each state, integrated per bin.
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


class Fleet(NamedTuple):
    """What does not change: the replicas, their limits and their step times in seconds."""

    model: Ints  #: [R]
    table: Ints  #: [R] which step table
    max_seqs: Ints  #: [R]
    max_tokens: Ints  #: [R] token budget of a step
    kv_capacity: Ints  #: [R] tokens
    max_context: Ints  #: [R] tokens of one request
    delay_s: Floats  #: [R] from arrival until the scheduler sees the request
    delay_steps: Floats  #: [R] the same, in decode steps of the batch then running
    pp_size: Ints  #: [K]
    decode: Floats  #: [K, max_seqs + 2] step of so many sequences with an empty context
    prompt: Floats  #: [K, max_tokens + 2] step of so many prompt tokens and no sequence
    kv_slope: Floats  #: [K, 2] per cached token read, below and above the window
    attention_slope: Floats  #: [K, 2] per prompt token and earlier token
    window: Floats  #: [K] tokens; infinite where no layer slides
    launch: Floats  #: [K, 4] of a step with prompts; beside the device a step, sequence, token


class Requests(NamedTuple):
    """What is asked and what became of it; all [N] but `prefix_size` [P]."""

    arrival: Floats
    isl: Ints
    osl: Ints
    model: Ints
    prefix: Ints  #: -1: none
    prefix_size: Ints
    ready: Floats
    first: Floats
    finish: Floats
    status: Ints
    replica: Ints
    generated: Ints
    preemptions: Ints
    cached: Ints  #: prompt tokens found in the prefix cache
    order: Ints  #: of admission
    next: Ints  #: the queue, as linked lists


class Replicas(NamedTuple):
    """What changes at each replica."""

    up: Ints
    now: Floats  #: end of the step in flight
    steps: Ints
    head: Ints
    tail: Ints
    waiting: Ints
    running: Ints  #: sequences decoding
    heap_step: Ints  #: [R, max_seqs] step at which each running sequence ends, a heap
    heap_id: Ints
    context: Ints  #: sum over the running sequences
    kv_used: Ints  #: tokens, cached prefixes among them
    evictable: Ints  #: tokens of cached prefixes nobody uses
    partial: Ints  #: request whose prompt is half done, -1: none
    partial_left: Ints
    outstanding: Ints
    last_done: Ints  #: requests that end with the step in flight
    last_ready: Floats
    prefix_used: Floats  #: [R, P] time of last use; negative: not cached
    prefix_refs: Ints  #: [R, P]
    kv_peak: Ints


class Loop(NamedTuple):
    """The rest: closed-loop slots, counters, the timeline and random numbers."""

    slots: Floats
    counts: Ints
    timeline: Floats  #: [BINS, 3]
    bin_s: Floats  #: [1] width, doubled when time runs over
    coins: Floats  #: [N, 2] uniform
    home: Ints  #: [P] replica a prefix was last sent to


class Sim(NamedTuple):
    """Everything, so that one argument is handed on."""

    fleet: Fleet
    requests: Requests
    replicas: Replicas
    loop: Loop


def new_requests(
    arrival: Floats, lengths: tuple[Ints, Ints], labels: tuple[Ints, Ints, Ints]
) -> Requests:
    """`lengths`: isl, osl; `labels`: model, prefix, and the tokens of each prefix."""
    n = len(arrival)

    def whole(value: int) -> Ints:
        return np.full(n, value, dtype=np.int64)

    return Requests(
        arrival=arrival.astype(np.float64).copy(),
        isl=lengths[0].astype(np.int64),
        osl=lengths[1].astype(np.int64),
        model=labels[0].astype(np.int64),
        prefix=labels[1].astype(np.int64),
        prefix_size=labels[2].astype(np.int64),
        ready=np.zeros(n),
        first=np.full(n, np.nan),
        finish=np.full(n, np.nan),
        status=whole(PENDING),
        replica=whole(-1),
        generated=whole(0),
        preemptions=whole(0),
        cached=whole(0),
        order=whole(0),
        next=whole(-1),
    )


def new_replicas(fleet: Fleet, num_prefixes: int) -> Replicas:
    count, seqs = len(fleet.model), int(fleet.max_seqs.max())

    def whole(value: int, *shape: int) -> Any:
        return np.full(shape or count, value, dtype=np.int64)

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
        context=whole(0),
        kv_used=whole(0),
        evictable=whole(0),
        partial=whole(-1),
        partial_left=whole(0),
        outstanding=whole(0),
        last_done=whole(0),
        last_ready=np.zeros(count),
        prefix_used=np.full((count, max(num_prefixes, 1)), -1.0),
        prefix_refs=whole(0, count, max(num_prefixes, 1)),
        kv_peak=whole(0),
    )


def new_loop(slots: int, requests: int, prefixes: int, seed: int) -> Loop:
    return Loop(
        slots=np.zeros(slots + 1),
        counts=np.zeros(6, dtype=np.int64),
        timeline=np.zeros((BINS, 3)),
        bin_s=np.array([1.0 / 16]),
        coins=np.random.default_rng([seed, 7]).random((requests, 2)),
        home=np.full(max(prefixes, 1), -1, dtype=np.int64),
    )
