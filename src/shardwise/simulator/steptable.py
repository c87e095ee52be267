"""Step times of a replica as two tables and three slopes, read from the performance model.

A step's time separates: weights, compute and communication depend on its tokens, the output head
on its sequences, the KV read on the cached tokens, prefill attention on pairs of tokens. So every
whole number of sequences and of prompt tokens is tabulated once, and nothing is interpolated. What
does not separate, the wait for a host that launches more slowly than the device computes, is added
to the sum of the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.serving_steps import through_stages
from shardwise.perfmodel.step import Setting, step_time
from shardwise.perfmodel.work import Array


class StepTable(msgspec.Struct, frozen=True):
    """Seconds. `decode[s]`: s sequences without context; `prompt[p]`: p prompt tokens alone."""

    decode: Array
    prompt: Array
    kv_slope: tuple[float, float]  #: s per cached token read, below and above the window
    attention_slope: tuple[float, float]  #: s per prompt token and earlier token, the same
    window: float  #: tokens
    pp_size: int
    #: s that the host takes to launch a step with prompts, and what of any step is not the
    #: device's: s a step, a sequence, a token
    launch: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def scaled(self, factor: float) -> StepTable:
        """The same replica with every step `factor` times as long."""
        launch, per_step, per_sequence, per_token = self.launch
        return StepTable(
            self.decode * factor,
            self.prompt * factor,
            (self.kv_slope[0] * factor, self.kv_slope[1] * factor),
            (self.attention_slope[0] * factor, self.attention_slope[1] * factor),
            self.window,
            self.pp_size,
            (launch * factor, per_step * factor, per_sequence * factor, per_token * factor),
        )


def step_table(setting: Setting, layout: Layout, max_num_seqs: int, max_tokens: int) -> StepTable:
    """The table of a replica in `layout` for up to so many sequences and tokens.

    With PP a step's sequences run as pp_size micro-batches that follow each other, and a step is
    of one micro-batch through all stages.
    """
    layouts = Layouts.of([layout])
    work, kernels = setting.work(layouts), setting.kernels(layouts)
    c, pp_size = setting.coefficients, layout.pp_size
    at_once = replace(setting, coefficients={**c, "eager_layer": 0.0})

    def seconds(sequences: Array, context: float, prompt: Array, earlier: float) -> Array:
        found = step_time(
            at_once,
            kernels,
            sequences,
            np.array(context),
            prompt,
            np.array(earlier),
        )
        passed = through_stages(at_once, kernels, float(pp_size), sequences + prompt, found)
        return np.asarray(passed.total, dtype=np.float64)

    none, one = np.zeros(1), np.ones(1)
    # one above the largest index, since a mixed step looks at s + 1
    decode = seconds(np.arange(max_num_seqs + 2.0), 0.0, none, 0.0)
    prompt = seconds(none, 0.0, np.arange(max(max_tokens, max_num_seqs) + 2.0), 0.0)
    window = float(min((read.limit for read in work.reads), default=np.inf))
    knee = window if np.isfinite(window) else 65536.0
    # slopes of a usual batch and chunk: kernels use a GPU less well for a single sequence
    batch, part = one * min(32, max_num_seqs), one * min(2048, max_tokens)
    kv = [float((seconds(batch, x * knee, none, 0.0) / batch)[0]) for x in (0.0, 1.0, 2.0)]
    attention = [float((seconds(none, 0.0, part, x * knee) / part)[0]) for x in (0.0, 1.0, 2.0)]
    return StepTable(
        decode=decode,
        prompt=prompt,
        kv_slope=((kv[1] - kv[0]) / knee / pp_size, (kv[2] - kv[1]) / knee / pp_size),
        attention_slope=(
            (attention[1] - attention[0]) / knee,
            (attention[2] - attention[1]) / knee,
        ),
        window=window,
        pp_size=pp_size,
        launch=(
            setting.arch.num_layers * c["eager_layer"],
            pp_size * c["step"],
            c["sequence"],
            (pp_size - 1) * float(kernels.hop_s[0]),
        ),
    )


def measured_table(
    decode_s: Mapping[int, float],
    prompt_s: Mapping[int, float],
    kv_slope: float,
    max_num_seqs: int,
    max_tokens: int,
) -> StepTable:
    """The table of an engine whose steps were timed: seconds by sequences without context, and by
    tokens of a prompt computed alone, attention included.

    Between the points, and beyond the last two, times are straight lines; a prompt of one token
    takes a decode step. InputError for fewer than two points of either.
    """

    def line(points: Mapping[int, float], size: int) -> Array:
        if len(points) < 2:
            raise InputError(f"{len(points)} measured step times", "needed: two or more")
        x = np.array(sorted(points), dtype=np.float64)
        y = np.array([points[int(k)] for k in x])
        at = np.arange(size + 2.0)
        beyond = y[-1] + (at - x[-1]) * max(0.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
        return np.asarray(np.where(at > x[-1], beyond, np.interp(at, x, y)))

    decode = line(decode_s, max_num_seqs)
    prompt = line({1: float(decode[1])} | dict(prompt_s), max(max_tokens, max_num_seqs))
    return StepTable(decode, prompt, (kv_slope, kv_slope), (0.0, 0.0), float("inf"), 1)
