"""Closed loops of equal lengths: requests that start together end together, and so do those that
follow them (a wave).

The first prompt of a wave finds the engine idle and has a step of its own. The others fill steps
one after the other, in groups. A group's first token comes a step after that of the group before
it, and so does its last. So the next requests of the first groups arrive before those of the last
group. If that is later than a request takes from client to scheduler, they are prefilled at once,
steps take longer, and the following groups wait for as many groups as arrived within that time.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.loop import decode_steps
from shardwise.perfmodel.serving_steps import (
    chunk,
    decode_step,
    mixed_step,
    prefill_step,
    verified,
)
from shardwise.perfmodel.step import Steps, StepTime
from shardwise.perfmodel.work import Array

#: What a note says of a loop whose requests stay in step.
WORDS: Final = "equal lengths: prompts wait for each other (a spread of 2 % ends that)"

NEARLY_NONE: Final = 1e-4  #: share of requests in step that is taken as none


class InStep(msgspec.Struct, frozen=True):
    """A loop whose requests stay in step. Means over requests, in seconds."""

    ttft_s: Array
    decoding_s: Array  #: from a request's first token to its last
    causes: StepTime  #: steps of a request, with those of the prompts that it waits for


def in_step(setting: Steps, load: Load, resident: Array, outside: Array) -> InStep:
    """Return a loop of `resident` requests of equal length.

    Args:
        setting: Kernel times and coefficients.
        load: The offered load.
        resident: Requests in flight.
        outside: Seconds of a request outside steps.
    """
    decode = decode_step(setting, load, resident)
    sharing = resident / load.pp_size  # requests of a micro-batch
    tokens = chunk(load, np.zeros_like(resident), sharing)
    own = np.maximum(load.new_tokens / tokens, 1.0)  # steps of a group's prompts
    groups = np.maximum(resident * load.new_tokens / (tokens * own), 1.0)
    apart = np.where(load.mixed_batches, own * decode.total, 0.0)
    steps = setting.coefficients["wait_steps"] + load.steps_ahead
    waiting = np.maximum(steps - 1.0, 0.0) * decode.total
    with np.errstate(divide="ignore"):
        arrived = np.minimum(1.0 + (outside + waiting) / apart, groups)
    # where a whole wave arrives before its first prompt, no step is running
    whole = arrived >= groups
    outside = np.where(whole, outside, outside + waiting)
    # mean over the groups of how many are prefilled, up to the group itself, while it waits
    place = arrived - arrived * (arrived - 1.0) / (2.0 * groups)
    decoding = np.where(load.mixed_batches, resident * (1.0 - place / groups), 0.0)
    room = chunk(load, decoding * verified(setting), sharing)
    step = mixed_step(setting, load, decoding, room)
    group = own * step.total
    prompts = _prompts_of_burst(resident, resident / groups)
    lone = own * prefill_step(setting, load, np.minimum(load.new_tokens, tokens)).total
    # stages of a pipeline work on different prompts
    burst = np.maximum(group * groups / resident * prompts / load.pp_size, lone)
    wave = np.where(whole, burst, group * place / load.pp_size) - apart * (place - 1.0)
    wave = np.maximum(wave, np.where(whole, lone, group))
    first = np.minimum(1.0, load.concurrency / load.requests)
    # one process receives the first burst
    outside = outside + first * setting.coefficients["handle"] * (resident - 1.0) / 2.0
    ttft = outside + first * burst + (1.0 - first) * wave
    steps = np.maximum(resident * load.new_tokens / room, 1.0)
    prefill = step.scaled((steps + load.pp_size - 1.0) / load.pp_size)
    shared = np.where(load.mixed_batches, steps - 1.0, 0.0)
    causes = prefill.plus(decode.scaled(np.maximum(decode_steps(setting, load) - shared, 0.0)))
    return InStep(ttft, np.maximum(outside + causes.total - ttft, 0.0), causes)


def _prompts_of_burst(requests: Array, together: Array) -> Array:
    """Return the mean time to a request's first token in a burst, in times of one prompt: one step
    for the first prompt, then `together` prompts a step."""
    others = requests - 1.0
    fill = np.clip(together, 1.0, np.maximum(others, 1.0))
    return np.asarray((1.0 + others * (1.0 + (others + fill) / 2.0)) / requests)


def share_in_step(load: Load) -> Array:
    """Return the share of requests that stay in step, by the standard deviation of their lengths.

    Chosen by eye from simulations: half of them if lengths differ by 1.4 tokens, 7 % if they differ
    by 5. Shares below `NEARLY_NONE` are 0, so that loads of varied lengths need no second loop.
    Nobody is in step at a request rate.
    """
    share = 1.0 / (1.0 + np.square(load.length_cv * load.osl) / 2.0)
    never = np.isinf(load.requests) | ~np.asarray(load.lengths_told) | (share < NEARLY_NONE)
    return np.where(never, 0.0, share)
