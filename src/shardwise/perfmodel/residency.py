"""How many sequences are in the KV cache at the same time.

A cache that holds the mean number of tokens of all sequences is still too small at times, for two
reasons. Each sequence is somewhere between its first and its last token, so their sum varies. And
requests that were sent together stay nearly in step for some waves if their lengths differ little,
so that all are long at the same time. Engines that admit a request for the tokens it has now then
preempt sequences, and new requests wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.perfmodel.loads import Load, held_tokens
from shardwise.perfmodel.work import Array

#: Times of a run at which the tokens held are evaluated, and parts of a wave. In a run that never
#: ends, nothing is in step.
WAVES: Final = 3
PHASES: Final = 8
HARMONICS: Final = 4
#: Standard deviations of the tokens held, beyond which they are taken never to be.
FURTHEST: Final = 5.0
#: Longest wait for memory of which a share is between tokens, in service times.
SHORT_WAIT: Final = 2.0 / 3.0
_NORMAL: Final = NormalDist()
_POINTS: Final = np.linspace(-FURTHEST, FURTHEST, 201)
_BELOW: Final = np.array([_NORMAL.cdf(z) for z in _POINTS.tolist()])
#: Mean of max(0, z + x) for a normal x, at `_POINTS`.
_EXCESS: Final = np.array([_NORMAL.pdf(z) + z * _NORMAL.cdf(z) for z in _POINTS.tolist()])


class Resident(msgspec.Struct, frozen=True):
    """Sequences resident at the same time, means over a run."""

    sequences: Array
    slots: Array  #: that concurrency and max_num_seqs allow
    limited: NDArray[np.bool_]  #: the KV cache holds fewer on average than `slots`
    before_first: Array  #: share of a short wait for memory that is before the first token
    recomputed: Array  #: tokens computed again after a preemption, per request

    def waiting_between(self, concurrency: Array) -> Array:
        """Return the wait for memory between a request's tokens, in service times."""
        memory = concurrency * (1.0 / self.sequences - 1.0 / self.slots)
        return np.asarray((1.0 - self.before_first) * np.minimum(memory, SHORT_WAIT))


class _Cache(msgspec.Struct, frozen=True):
    """A KV cache and what it has to hold, one element per configuration."""

    slots: Array
    mean: Array  #: tokens that admission counts per sequence, without a shared prefix
    fit: Array  #: sequences of `mean` tokens that it holds, at least one


def resident_in_queue(load: Load) -> Resident:
    """Return the sequences resident while others are queued: as many as the cache holds."""
    return _full(load, _cache(load))


def resident_in_loop(load: Load) -> Resident:
    """Return the sequences resident in a closed loop.

    Sequences that are preempted wait between tokens, others before their first. The longer prompts
    are, the more of the wait is that of new requests: a share of the square root of the prompt's
    share of the tokens held. Preempted sequences go to the front of the queue, so a longer queue
    does not delay them further. Both are chosen by eye from simulations.
    """
    cache = _cache(load)
    queued, slots = _full(load, cache), cache.slots
    surely = np.broadcast_to(np.asarray(load.reserves_output, np.bool_), slots.shape)
    share = np.where(surely, 1.0, np.sqrt(np.clip(load.new_tokens / cache.mean, 0.0, 1.0)))
    # one sequence alone is never preempted
    near = ~surely & (slots > 1.0) & (cache.fit * cache.mean < slots * _most(load, slots))
    if not np.any(near):
        return replace(queued, before_first=share)
    sequences, again = queued.sequences.copy(), np.zeros_like(slots)
    waiting, full = _over_time(load, cache, near)
    sequences[near] = np.clip(slots[near] * (1.0 - waiting), 1.0, sequences[near])
    again[near] = full * np.broadcast_to(load.osl, slots.shape)[near]
    return Resident(sequences, slots, queued.limited, share, again)


def _cache(load: Load) -> _Cache:
    slots = np.asarray(np.minimum(load.concurrency, load.max_num_seqs))
    held = held_tokens(load.isl, load.osl, load.length_cv, reserves_output=load.reserves_output)
    mean = np.broadcast_to(held - load.cached_tokens, slots.shape)
    shared = load.cached_tokens * load.layouts.attention_dp  # once per attention replica
    return _Cache(slots, mean, np.maximum(1.0, (load.kv_capacity_tokens - shared) / mean))


def _full(load: Load, cache: _Cache) -> Resident:
    """Return the sequences resident in a cache that is full if it is too small for all of them.

    A request that ends frees its prompt and its output. Prompts are admitted into all of it, but
    the output's part is needed for the tokens that others decode, so that as many prompt tokens as
    there are output tokens are preempted and computed again, unless outputs are reserved.
    """
    slots, limited = cache.slots, cache.fit < cache.slots
    again = np.where(limited & ~np.asarray(load.reserves_output, np.bool_), load.osl, 0.0)
    return Resident(np.minimum(slots, cache.fit), slots, limited, np.ones_like(slots), again)


def _most(load: Load, slots: Array) -> Array:
    """Return the tokens per slot beyond which a cache is never full."""
    cv = np.asarray(load.length_cv)
    in_step = load.new_tokens + load.osl * (1.0 + np.square(cv) / 2.0)
    apart = np.square(load.new_tokens * cv) + _ages(load.osl, cv)
    return np.asarray(in_step + FURTHEST * np.sqrt(apart / slots))


def _over_time(load: Load, cache: _Cache, near: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the share of the chosen loads' sequences that wait for memory, and the share of time
    for which the cache is full. The tokens held by a sequence are normally distributed around a
    mean that rises and falls with each wave."""

    def chosen(values: Array | float) -> Array:
        return np.broadcast_to(np.asarray(values, np.float64), near.shape)[near][:, None]

    count, room = chosen(cache.slots), chosen(cache.fit * cache.mean / cache.slots)[..., None]
    demand, spread = _demand(load, chosen(cache.mean), count, chosen)
    over = demand - room
    score = over / spread
    noise = np.interp(-np.abs(score), _POINTS, _EXCESS) * spread
    excess = np.maximum(over, 0.0) + noise
    waiting = np.mean(excess / np.maximum(demand, room), axis=(1, 2))
    return waiting, np.mean(np.interp(score, _POINTS, _BELOW), axis=(1, 2))


def _demand(
    load: Load, mean: Array, count: Array, chosen: Callable[[Array | float], Array]
) -> tuple[Array, Array]:
    """Return the tokens per sequence at `WAVES` times and `PHASES` parts of a wave, and the
    standard deviation of their mean over `count` sequences."""
    prompt, osl, cv = chosen(load.new_tokens), chosen(load.osl), chosen(load.length_cv)
    never = np.isinf(load.requests) | ~np.asarray(load.lengths_told)
    waves = chosen(np.where(never, 0.0, load.requests)) / count
    drift = np.square(cv) * waves * (np.arange(WAVES) + 0.5) / WAVES  # variance, in waves
    swing = _swing(np.where(chosen(never) > 0.0, np.inf, drift)) * osl[..., None]
    in_step = np.mean(np.square(swing), axis=2)
    own = np.square(prompt * cv) + np.maximum(_ages(osl, cv) - in_step, 0.0)
    spread = np.maximum(np.sqrt(own / count), 1e-6 * mean)
    return mean[..., None] + swing, spread[..., None]


def _ages(osl: Array, cv: Array) -> Array:
    """Return the variance of the tokens that a sequence has decoded at a random time: of the age in
    a renewal process of gamma-distributed lengths."""
    square = 1.0 + np.square(cv)
    return np.asarray(
        np.square(osl) * (square * (1.0 + 2.0 * np.square(cv)) / 3.0 - np.square(square) / 4.0)
    )


def _swing(drift: Array) -> Array:
    """Return how far the mean share decoded is from 1/2, at `PHASES` points of a wave whose
    requests have drifted apart: the Fourier series of a saw tooth, smoothed by a normal
    distribution of variance `drift`."""
    points = 2.0 * math.pi * (np.arange(PHASES) + 0.5) / PHASES
    orders = np.arange(1, HARMONICS + 1)
    waves = np.sin(orders * points[:, None]) / (math.pi * orders)
    fading = np.exp(-2.0 * np.square(math.pi * orders) * drift[..., None])
    return np.asarray(-np.einsum("...h,ph->...p", fading, waves))
