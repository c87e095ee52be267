"""Step times of a replica as tables, from the performance model.

The time of a step is a sum: weights, compute and communication depend on its tokens, the output
head on its sequences, and attention on sequences or prompt tokens and on their context. The first
two are tabulated for every number of sequences and of prompt tokens, and attention at the nodes of
the performance model's own tables. The wait for a host that launches more slowly than the device
computes is added to that sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout
from shardwise.perfmodel.grids import CONTEXTS, SEQUENCES, TOKENS
from shardwise.perfmodel.operators import StepKernels
from shardwise.perfmodel.serving_steps import through_stages, tokens_per_step, verified
from shardwise.perfmodel.step import Setting, Steps, StepTime, step_time
from shardwise.perfmodel.work import Array
from shardwise.simulator.surface import Surface, plane

#: Prompt tokens beside which sequences are tabulated. What these add hardly depends on it: 512
#: instead changes steps by less than 0.5 %.
BESIDE: Final = 1024.0


class StepTable(msgspec.Struct, frozen=True):
    """Seconds of a micro-batch, which is the whole step with one pipeline stage.

    `decode[s]`: s sequences without context; `prompt[p]`: p prompt tokens alone, spread evenly over
    the copies of attention.
    """

    decode: Array
    prompt: Array
    reads: Surface  #: added by the context of so many sequences in one copy of attention
    scores: Surface  #: added by the earlier tokens of so many prompt tokens of one prompt
    pp_size: int = 1
    #: s that the host takes to launch a step with prompts, and what of any step is not the
    #: device's: s a step, a sequence, a token
    launch: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    graph_tokens: float = 0.0  #: largest step with prompts that runs as graphs but for attention
    copies: int = 1  #: of attention (data-parallel); a prompt is computed by one of them
    #: `copy[p]`: p prompt tokens in one copy, without routed experts; empty where there is one copy
    copy: Array = msgspec.field(default_factory=lambda: np.zeros(0))
    query_tokens: int = 1  #: of each sequence in a step: one, and those drafted
    tokens_per_step: float = 1.0  #: mean tokens that a decode step gives a sequence
    #: `beside[s]`: what s sequences add to a step with prompts, beside their tokens, which `prompt`
    #: counts as a prompt's; empty: as the differences of `decode` and `prompt` say
    beside: Array = msgspec.field(default_factory=lambda: np.zeros(0))

    @property
    def lanes(self) -> int:
        """Prompts computed in parallel by micro-batches and attention ranks."""
        return self.pp_size * self.copies

    def scaled(self, factor: float) -> StepTable:
        """Return the same replica with every step `factor` times as long."""
        launch, per_step, per_sequence, per_token = self.launch
        return replace(
            self,
            decode=self.decode * factor,
            prompt=self.prompt * factor,
            reads=self.reads.scaled(factor),
            scores=self.scores.scaled(factor),
            launch=(launch * factor, per_step * factor, per_sequence * factor, per_token * factor),
            copy=self.copy * factor,
            beside=self.beside * factor,
        )


def step_table(
    setting: Setting, layout: Layout, max_num_seqs: int, max_tokens: int, graph_tokens: int
) -> StepTable:
    """The table of a replica in `layout` for up to so many sequences in all, and tokens of a copy
    of attention and a micro-batch. Steps with prompts of up to `graph_tokens` run as CUDA graphs.

    With PP a step's sequences run as pp_size micro-batches that follow each other, and a step is
    of one micro-batch through all stages.
    """
    layouts = Layouts.of([layout])
    kernels = setting.kernels(layouts)
    c, pp_size, copies = setting.coefficients, layout.pp_size, layout.attention_dp
    queries = int(verified(setting))
    at_once = replace(setting, coefficients={**c, "eager_kernel": 0.0})

    def total(found: StepTime) -> Array:
        return np.asarray(found.total, dtype=np.float64)

    def seconds(
        sequences: Array,
        context: Array,
        prompt: Array,
        earlier: Array,
        used: StepKernels = kernels,
    ) -> Array:
        def of(steps: Steps, at: StepKernels, prompts: Array) -> StepTime:
            return step_time(steps, at, sequences, context, prompts, earlier)

        tokens = queries * sequences + prompt
        found = total(
            through_stages(at_once, used, float(pp_size), tokens, of(at_once, used, prompt))
        )
        if (drafting := setting.drafting) is not None:
            first, further = drafting.first, drafting.further
            found = found + total(of(first, first.kernels(layouts), prompt))
            rest = total(of(further, further.kernels(layouts), np.zeros_like(prompt)))
            found = found + (drafting.passes - 1.0) * rest
        return found

    none = np.zeros(1)
    # one above the largest index, since a mixed step looks at s + 1
    decode = seconds(np.arange(max_num_seqs + 2.0), none, none, none)
    most = max(copies * max_tokens, queries * max_num_seqs) + queries * (copies + 2)
    prompt = seconds(none, none, np.arange(most + 2.0), none)
    beside = seconds(np.arange(max_num_seqs + 2.0), none, none + BESIDE, none)
    beside = beside - seconds(none, none, queries * np.arange(max_num_seqs + 2.0) + BESIDE, none)
    # a prompt is in one copy of attention, whatever there are more
    alone = replace(kernels, attention_dp=np.ones_like(kernels.attention_dp))
    dense = replace(alone, experts=None)
    sequences = copies * SEQUENCES[:, None]
    parts, earlier = np.meshgrid(TOKENS, CONTEXTS, indexing="ij")
    reads = seconds(sequences, CONTEXTS, none, none) - seconds(sequences, none, none, none)
    scores = seconds(none, none, parts, earlier, alone) - seconds(none, none, parts, none, alone)
    return StepTable(
        decode=decode,
        prompt=prompt,
        beside=beside,
        reads=Surface(SEQUENCES, CONTEXTS, reads),
        scores=Surface(TOKENS, CONTEXTS, scores),
        pp_size=pp_size,
        launch=(
            float(kernels.launched[0]) * c["eager_kernel"],
            pp_size * c["step"],
            c["sequence"] / copies,
            (pp_size - 1) * float(kernels.hop_s[0]),
        ),
        graph_tokens=float(graph_tokens),
        copies=copies,
        copy=seconds(none, none, np.arange(most + 2.0), none, dense) if copies > 1 else np.zeros(0),
        query_tokens=queries,
        tokens_per_step=tokens_per_step(setting),
    )


def measured_table(
    decode_s: Mapping[int, float],
    prompt_s: Mapping[int, float],
    kv_slope: float,
    max_num_seqs: int,
    max_tokens: int,
) -> StepTable:
    """Return the table of an engine with measured steps: seconds by sequences without context, and
    by tokens of a single prompt, including attention.

    Times are linear between the points and beyond the last two; a prompt of one token takes a
    decode step. InputError for fewer than two points of either.
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
    return StepTable(decode, prompt, plane(kv_slope), plane(0.0))
