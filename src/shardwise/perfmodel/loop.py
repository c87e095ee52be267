"""Requests that follow each other in a fixed number of slots: how prompts and decodes share steps.

Every slot goes through a cycle: a prompt, then its tokens. A token waits for the prompts of the
other slots, and how many of them come depends on how long the cycle is, which depends on the token.
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

#: Times that the steps are worked out: with every slot decoding, then with those that do.
ROUNDS: Final = 2


class Turn(msgspec.Struct, frozen=True):
    """Steps of a loop: with decodes alone, with a chunk of a prompt, and what a prompt adds."""

    decode: StepTime
    mixed: StepTime
    extra: StepTime  #: of a whole prompt, beyond the decodes that it runs beside
    own_steps: Array  #: that a prompt takes

    @property
    def prefill(self) -> StepTime:
        """The steps that a request's own prompt is computed in."""
        return self.mixed.scaled(self.own_steps)


class Loop(msgspec.Struct, frozen=True):
    """A loop that has settled. Seconds."""

    turn: Turn
    token: StepTime  #: of one token, others' prompts included
    decoding_s: Array  #: from a request's first token to its last
    backlog_s: Array  #: that a prompt waits for prompts which no step had room for


def settled(
    setting: Steps,
    load: Load,
    slots: Array,
    outside: Array | float = 0.0,
    waiting: Array | float = 0.0,
) -> Loop:
    """The loop of `slots` requests whose cycle is outside + prefill + (1 + waiting) x D, D the time
    that a request decodes for.

    A step holds no more prompt tokens than its budget: where the others' prompts would make a
    token take longer than such a step, they are waited for before the first token instead.
    """
    steps = decode_steps(setting, load)
    share = np.ones_like(slots)
    for _ in range(ROUNDS):
        turn = _turn(setting, load, slots, share)
        fixed = outside + turn.prefill.total
        growing = 1.0 + waiting
        own, others = steps * turn.decode.total, (slots - 1.0) * turn.extra.total
        wanted = _decoding_s(own, others, fixed, growing)
        share = wanted / (fixed + growing * wanted)
    full = fullest_chunk(load, slots * verified(setting))
    fullest = mixed_step(setting, load, slots, full).total
    decoding = np.minimum(wanted, steps * fullest)
    prompts = (decoding / steps - turn.decode.total) / np.maximum(turn.extra.total, 1e-12)
    step = turn.decode.plus(turn.extra.scaled(prompts))
    token = step.scaled(1.0 / tokens_per_step(setting))
    return Loop(turn, token, decoding, wanted - decoding)


def decoded(load: Load) -> Array:
    """Tokens of a request after its first; hardly any rather than none, since they divide."""
    return np.maximum(load.osl - 1.0, 1e-6)


def decode_steps(setting: Steps, load: Load) -> Array:
    """Steps that a request decodes in."""
    return decoded(load) / tokens_per_step(setting)


def _turn(setting: Steps, load: Load, slots: Array, share: Array) -> Turn:
    """The steps of `slots` requests that decode for `share` of their time."""
    decoding = slots * share
    finished = decoding * tokens_per_step(setting) / load.osl
    # prompts that come together, in a step of a micro-batch or in those they are gathered over
    arrivals = finished / load.pp_size * load.gather_steps
    together = arrivals / -np.expm1(-arrivals)  # mean of a Poisson number given at least one
    tokens = chunk(load, slots * verified(setting), together)
    steps_per_prompt = load.new_tokens / tokens
    decode = decode_step(setting, load, decoding)
    mixed = mixed_step(setting, load, decoding, tokens)
    bubbles = _bubbles(arrivals * steps_per_prompt, load.pp_size)
    extra = mixed.plus(decode.scaled(-1.0)).scaled(steps_per_prompt / load.pp_size * bubbles)
    return Turn(decode, mixed, extra, np.maximum(1.0, steps_per_prompt))


def _bubbles(chunks: Array, pp_size: Array) -> Array:
    """Time that a chunk of a prompt takes from a pipeline, over its own share of the stages' time.

    Args:
        chunks: Chunks per step of a micro-batch.
        pp_size: Stages, and micro-batches that follow each other through them.

    Returns:
        From 1, where every micro-batch has a chunk, to `pp_size`, where one alone has: the others
        cannot overtake it, so a round of all takes as long as the longest step needs to pass all
        stages (pipeline bubbles in Agrawal et al., "Sarathi-Serve", arXiv:2403.02310).
    """
    share = np.clip(chunks, 1e-9, 1.0 - 1e-9)
    return np.asarray(-np.expm1(pp_size * np.log1p(-share)) / share)


def _decoding_s(own: Array, others: Array, fixed: Array, growing: Array | float) -> Array:
    """Seconds D that a request decodes for, in a loop whose cycle is fixed + growing x D.

    `own` seconds of its steps alone, and `others` of one prompt from each other slot, which come
    once a cycle: D = own + others x D / cycle. The quadratic's positive root.
    """
    half = (growing * own + others - fixed) / 2.0
    return np.asarray((half + np.sqrt(half**2 + growing * own * fixed)) / growing)
