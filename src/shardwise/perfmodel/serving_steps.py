"""The steps that a load is served in, with pipeline stages passed through.

The scheduler is continuous batching with chunked prefill: decodes go first, prompts fill the step's
token budget.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.operators import StepKernels
from shardwise.perfmodel.step import Drafting, Steps, StepTime, step_time
from shardwise.perfmodel.work import Array


def mean_context(load: Load) -> Array:
    """Tokens that a decoding sequence has behind it, on average: long answers are in more steps,
    so that the mean answer in a step is (1 + cv^2) times as long as the mean of all."""
    return np.asarray(load.isl + load.osl * (1.0 + np.square(load.length_cv)) / 2.0)


def through_stages(
    setting: Steps,
    kernels: StepKernels,
    pp_size: Array | float,
    tokens: Array,
    step: StepTime,
) -> StepTime:
    """A step that passes pp_size stages: each further stage has its own host time, and receives
    the hidden vectors of `tokens` tokens over one link."""
    more = pp_size - 1.0
    return replace(
        step,
        overhead=step.overhead + more * setting.coefficients["step"],
        communication=step.communication
        + more * (tokens * kernels.of(kernels.hop_s) + kernels.of(kernels.hop_latency_s)),
    )


def decode_step(setting: Steps, load: Load, batch: Array) -> StepTime:
    """A decode step of `batch` sequences; PP runs pp_size micro-batches that follow each other."""
    return mixed_step(setting, load, batch, np.zeros_like(load.isl))


def mixed_step(setting: Steps, load: Load, batch: Array, prompt_tokens: Array) -> StepTime:
    """The same step when `prompt_tokens` are prefilled beside the decodes."""
    sequences = batch / load.pp_size
    kernels = setting.kernels(load.layouts)
    step = _step(setting, load, sequences, prompt_tokens)
    tokens = sequences * kernels.of(kernels.query_tokens) + prompt_tokens
    whole = through_stages(setting, kernels, load.pp_size, tokens, step)
    if setting.drafting is None:
        return whole
    return whole.plus(_drafts(setting.drafting, load, sequences, prompt_tokens))


def _step(setting: Steps, load: Load, sequences: Array, prompt_tokens: Array) -> StepTime:
    """A step on one stage."""
    return step_time(
        setting,
        setting.kernels(load.layouts),
        sequences,
        mean_context(load),
        prompt_tokens,
        load.prompt_context,
        load.new_tokens,
    )


def _drafts(drafting: Drafting, load: Load, sequences: Array, prompt_tokens: Array) -> StepTime:
    """The passes that draft the next step's tokens: the first also takes in the prompts."""
    first = _step(drafting.first, load, sequences, prompt_tokens)
    if drafting.passes == 1:
        return first
    further = _step(drafting.further, load, sequences, np.zeros_like(prompt_tokens))
    return first.plus(further.scaled(drafting.passes - 1.0))


def tokens_per_step(setting: Steps) -> float:
    """Mean tokens that a decode step gives a sequence."""
    return 1.0 if setting.drafting is None else setting.drafting.tokens_per_step


def verified(setting: Steps) -> float:
    """Tokens of a decoding sequence in a step: one, and those drafted."""
    return 1.0 if setting.drafting is None else setting.drafting.passes + 1.0


def prefill_step(setting: Steps, load: Load, prompt_tokens: Array) -> StepTime:
    """A step of `prompt_tokens` while nothing decodes."""
    return mixed_step(setting, load, np.zeros_like(load.isl), prompt_tokens)


def chunk(load: Load, batch: Array, together: Array) -> Array:
    """Prompt tokens of one step when `together` prompts wait beside `batch` decoded tokens."""
    room = np.maximum(load.max_num_batched_tokens - batch, 256.0)
    return np.minimum(load.new_tokens * together, room)


def fullest_chunk(load: Load, batch: Array) -> Array:
    """Prompt tokens of one step when prompts without end are waiting."""
    return chunk(load, batch, load.max_num_batched_tokens / load.new_tokens)
