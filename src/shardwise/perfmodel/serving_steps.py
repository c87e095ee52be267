"""The steps of a load, through all pipeline stages.

The scheduler is continuous batching with chunked prefill: decodes go first, and prompts fill the
rest of the step's token budget.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec.structs import replace

from shardwise.perfmodel.loads import Load, held_tokens
from shardwise.perfmodel.operators import StepKernels
from shardwise.perfmodel.step import Drafting, Steps, StepTime, step_time
from shardwise.perfmodel.work import Array

#: Least spread (log) of prompt lengths: equal ones.
_SAME_LENGTH: Final = 3e-5
#: Variance over mean squared of a Poisson number given at least one, of mean t: within 5 % this
#: times (t - 1) / t^2 for t up to 5.
_NUMBER: Final = 1.18
#: Slope of the logistic function that is within 0.01 of the normal distribution.
_LOGISTIC: Final = 1.702


def mean_context(load: Load) -> Array:
    """Return the mean context of a decoding sequence, in tokens."""
    return held_tokens(load.isl, load.osl, load.length_cv, reserves_output=False)


def through_stages(
    setting: Steps,
    kernels: StepKernels,
    pp_size: Array | float,
    tokens: Array,
    step: StepTime,
) -> StepTime:
    """Return the time of a step through `pp_size` stages. Each further stage adds its host time and
    the transfer of the hidden states of `tokens` tokens."""
    more = pp_size - 1.0
    return replace(
        step,
        overhead=step.overhead + more * setting.coefficients["step"],
        communication=step.communication
        + more * (tokens * kernels.of(kernels.hop_s) + kernels.of(kernels.hop_latency_s)),
    )


def decode_step(setting: Steps, load: Load, batch: Array) -> StepTime:
    """Return the time of a decode step of `batch` sequences, split into pp_size micro-batches."""
    return mixed_step(setting, load, batch, np.zeros_like(load.isl))


def mixed_step(setting: Steps, load: Load, batch: Array, prompt_tokens: Array) -> StepTime:
    """Return the time of a step of `batch` sequences that also prefills `prompt_tokens`."""
    sequences = batch / load.pp_size
    kernels = setting.kernels(load.layouts)
    step = _step(setting, load, sequences, prompt_tokens)
    tokens = sequences * kernels.of(kernels.query_tokens) + prompt_tokens
    whole = through_stages(setting, kernels, load.pp_size, tokens, step)
    if setting.drafting is None:
        return whole
    return whole.plus(_drafts(setting.drafting, load, sequences, prompt_tokens))


def _step(setting: Steps, load: Load, sequences: Array, prompt_tokens: Array) -> StepTime:
    """Return the time of a step on one stage."""
    kernels = setting.kernels(load.layouts)
    return step_time(
        setting,
        kernels,
        sequences,
        mean_context(load),
        prompt_tokens,
        load.prompt_context,
        load.new_tokens,
        as_graphs(load, kernels, sequences, prompt_tokens),
    )


def as_graphs(load: Load, kernels: StepKernels, sequences: Array, prompt_tokens: Array) -> Array:
    """Return the share of steps with prompts that are small enough for CUDA graphs. Their number of
    prompts is a Poisson number given at least one, and the tokens of a step have a log-normal
    distribution, in its logistic approximation."""
    if not np.any(prompt_tokens) or not np.any(load.graph_tokens):
        return np.zeros(np.shape(prompt_tokens))
    copies = kernels.of(kernels.attention_dp)
    room = load.graph_tokens - kernels.of(kernels.query_tokens) * sequences / copies
    mean = np.maximum(prompt_tokens / copies, np.minimum(prompt_tokens, load.new_tokens))
    together = np.maximum(mean / load.new_tokens, 1.0)
    number = _NUMBER * (together - 1.0) / np.square(together)
    spread = np.sqrt(np.log1p(np.square(load.length_cv) / together + number))
    spread = np.maximum(spread, _SAME_LENGTH)
    above = np.log(np.maximum(mean, 1.0) / np.maximum(room + 0.5, 1e-9)) - spread**2 / 2.0
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(_LOGISTIC * above / spread, -50.0, 50.0))))


def _drafts(drafting: Drafting, load: Load, sequences: Array, prompt_tokens: Array) -> StepTime:
    """Return the time of the draft passes of a step. The first pass also processes the prompts."""
    first = _step(drafting.first, load, sequences, prompt_tokens)
    if drafting.passes == 1:
        return first
    further = _step(drafting.further, load, sequences, np.zeros_like(prompt_tokens))
    return first.plus(further.scaled(drafting.passes - 1.0))


def tokens_per_step(setting: Steps) -> float:
    """Return the mean tokens that a decode step produces per sequence."""
    return 1.0 if setting.drafting is None else setting.drafting.tokens_per_step


def verified(setting: Steps) -> float:
    """Return the tokens of a decoding sequence in a step: one, plus the drafted ones."""
    return 1.0 if setting.drafting is None else setting.drafting.passes + 1.0


def prefill_step(setting: Steps, load: Load, prompt_tokens: Array) -> StepTime:
    """Return the time of a step of `prompt_tokens` without decodes."""
    return mixed_step(setting, load, np.zeros_like(load.isl), prompt_tokens)


def chunk(load: Load, batch: Array, together: Array) -> Array:
    """Return the prompt tokens of a step if `together` prompts wait and `batch` tokens decode."""
    room = np.maximum(load.max_num_batched_tokens - batch, 256.0)
    return np.minimum(load.new_tokens * together, room)


def fullest_chunk(load: Load, batch: Array) -> Array:
    """Return the prompt tokens of a step if prompts fill the token budget."""
    return chunk(load, batch, load.max_num_batched_tokens / load.new_tokens)
