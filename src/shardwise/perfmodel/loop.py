"""A closed loop with a fixed number of slots: how prompts and decodes share steps.

Every slot cycles through a prompt and its tokens. A token waits for the prompts of other slots.
Their number depends on the length of the cycle, which depends on the token time.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.serving_steps import (
    chunk,
    decode_step,
    fullest_chunk,
    mixed_step,
    tokens_per_step,
    verified,
)
from shardwise.perfmodel.step import Steps, StepTime
from shardwise.perfmodel.work import Array

#: Iterations of the step computation: with every slot decoding, then with the actual number.
ROUNDS: Final = 2


class Turn(msgspec.Struct, frozen=True):
    """Steps of a loop."""

    decode: StepTime  #: decode only
    mixed: StepTime  #: with a chunk of a prompt
    extra: StepTime  #: time that a whole prompt adds to the decode steps
    own_steps: Array  #: steps of a prompt
    prompts: Array  #: prompts that share them

    @property
    def prefill(self) -> StepTime:
        """The steps of a request's own prompt."""
        return self.mixed.scaled(self.own_steps)


class Loop(msgspec.Struct, frozen=True):
    """The steady state of a loop. Seconds."""

    turn: Turn
    token: StepTime  #: of one token, including prompts of other requests
    decoding_s: Array  #: from a request's first token to its last
    backlog_s: Array  #: wait of a prompt for earlier prompts that exceeded the step budget


def settled(
    setting: Steps,
    load: Load,
    slots: Array,
    outside: Array | float = 0.0,
    waiting: Array | float = 0.0,
    grouped: Array | float = 0.0,
    recomputed: Array | float = 0.0,
) -> Loop:
    """Return the steady state of a loop of `slots` requests with cycle outside + prefill + (1 +
    waiting) x D, where D is the decode time of a request.

    A step holds at most its budget of prompt tokens. If other prompts would make a token take
    longer than such a step, the wait is before the first token instead. `grouped` is the share of
    prompts that come in groups that fill their steps; the others come one by one. `recomputed` are
    the tokens per request that are computed again after a preemption, many at a time.
    """
    steps = decode_steps(setting, load)
    share = np.ones_like(slots)
    full = fullest_chunk(load, slots * verified(setting))
    fullest = mixed_step(setting, load, slots, full).total
    for _ in range(ROUNDS):
        turn = _turn(setting, load, slots, share, grouped)
        fixed = outside + turn.prefill.total
        growing = 1.0 + waiting
        # the groups before and after a request's own are prefilled while it decodes
        beside = (1.0 - grouped) * fixed
        own = steps * turn.decode.total
        others = (slots - 1.0 - grouped * (turn.prompts - 1.0)) * turn.extra.total
        again = recomputed * np.maximum(fullest - turn.decode.total, 0.0) / full
        others = others + (slots - 1.0) * again / load.pp_size
        wanted = _decoding_s(own, others, beside, growing)
        share = wanted / (fixed + growing * wanted)
    decoding = np.minimum(wanted, steps * fullest)
    prompts = (decoding / steps - turn.decode.total) / np.maximum(turn.extra.total, 1e-12)
    step = turn.decode.plus(turn.extra.scaled(prompts))
    token = step.scaled(1.0 / tokens_per_step(setting))
    return Loop(turn, token, decoding, wanted - decoding)


def decoded(load: Load) -> Array:
    """Return the tokens of a request after its first, floored to avoid division by zero."""
    return np.maximum(load.osl - 1.0, 1e-6)


def decode_steps(setting: Steps, load: Load) -> Array:
    """Return the number of decode steps of a request."""
    return decoded(load) / tokens_per_step(setting)


def _turn(setting: Steps, load: Load, slots: Array, share: Array, grouped: Array | float) -> Turn:
    """Return the steps of `slots` requests that decode for `share` of their time."""
    decoding = slots * share
    finished = decoding * tokens_per_step(setting) / load.osl
    # prompts that arrive together: within one step, or within the steps that gather requests
    arrivals = finished / load.pp_size * load.gather_steps
    together = arrivals / -np.expm1(-arrivals)  # mean of a Poisson number given at least one
    tokens = chunk(load, slots * verified(setting), together)
    tokens = tokens + grouped * (chunk(load, slots * verified(setting), slots) - tokens)
    steps_per_prompt = load.new_tokens / tokens
    decode = decode_step(setting, load, decoding)
    # decodes share the step of a prompt, or wait for it
    beside = np.where(load.mixed_batches, decoding, 0.0)
    mixed = mixed_step(setting, load, beside, tokens)
    shared = decode.scaled(-np.where(load.mixed_batches, 1.0, 0.0))
    bubbles = _bubbles(arrivals * steps_per_prompt, load.pp_size)
    extra = mixed.plus(shared).scaled(steps_per_prompt / load.pp_size * bubbles)
    prompts = np.clip(1.0 / steps_per_prompt, 1.0, slots)
    return Turn(decode, mixed, extra, np.maximum(1.0, steps_per_prompt), prompts)


def _bubbles(chunks: Array, pp_size: Array) -> Array:
    """Return the time that a prompt chunk takes from a pipeline, relative to its own share of the
    stages' time.

    Args:
        chunks: Chunks per step of a micro-batch.
        pp_size: Number of stages and of micro-batches.

    Returns:
        1 if every micro-batch has a chunk, up to `pp_size` if only one has. The others cannot
        overtake it, so a round takes as long as the longest step needs for all stages (pipeline
        bubbles in Agrawal et al., "Sarathi-Serve", arXiv:2403.02310).
    """
    share = np.clip(chunks, 1e-9, 1.0 - 1e-9)
    return np.asarray(-np.expm1(pp_size * np.log1p(-share)) / share)


def _decoding_s(own: Array, others: Array, fixed: Array, growing: Array | float) -> Array:
    """Return the decode time D of a request, in a loop with cycle fixed + growing x D.

    `own` are the seconds of its own steps, `others` those of one prompt from each other slot per
    cycle: D = own + others x D / cycle. Returns the positive root of the quadratic.
    """
    half = (growing * own + others - fixed) / 2.0
    return np.asarray((half + np.sqrt(half**2 + growing * own * fixed)) / growing)
