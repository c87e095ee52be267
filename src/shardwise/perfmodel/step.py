"""Time of one engine step: some sequences decode, some prompt tokens are prefilled.

Units are seconds and tokens. Every argument broadcasts. A step is the sum of its operators' kernel
times (`operators`), each class times a fitted factor that is 1 where the tables are right, and the
engine's own time. The parts are returned apart, since what binds a step is the answer most users
are after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec
import numpy as np

from shardwise.architecture.formats import Format
from shardwise.architecture.model import Model
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.network import Fabric
from shardwise.layout.arrays import Layouts
from shardwise.perfmodel.grids import CONTEXTS, SEQUENCES, TOKENS, across, along, place
from shardwise.perfmodel.messages import Node
from shardwise.perfmodel.operators import (
    ELEMENTWISE,
    EXCHANGE,
    EXPERT_MATRIX,
    EXPERT_WEIGHTS,
    GEMM_MATRIX,
    GEMM_WEIGHTS,
    REDUCE,
    StepKernels,
    step_kernels,
)
from shardwise.perfmodel.work import Array, Work, rank_work

#: Sharpness of the hand-over between launching a step's kernels and computing them.
HOST_KNEE: Final = 4.0


class StepTime(msgspec.Struct, frozen=True):
    """Seconds of one step by cause; arrays of one shape.

    Attributes:
        weights: Products while they wait for their weights.
        kv: Decoding attention: reading caches and states.
        compute: Products while they wait for their arithmetic, and prompts' attention.
        communication: Collectives.
        overhead: The engine's own time, and kernels that no table times: norms, activations.
    """

    weights: Array
    kv: Array
    compute: Array
    communication: Array
    overhead: Array

    @property
    def total(self) -> Array:
        """Seconds of the whole step."""
        return self.weights + self.kv + self.compute + self.communication + self.overhead

    def scaled(self, factor: Array | float) -> StepTime:
        """Every part multiplied by `factor`."""
        return StepTime(*(getattr(self, name) * factor for name in self.__struct_fields__))

    def plus(self, other: StepTime) -> StepTime:
        """Sum of two steps, part by part."""
        return StepTime(
            *(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__)
        )


class Steps(Protocol):
    """What a step's time is made of: coefficients, which are numbers or arrays with one element for
    each configuration, and kernels."""

    @property
    def coefficients(self) -> Mapping[str, Array | float]:
        """Coefficients by name."""

    @property
    def drafting(self) -> Drafting | None:
        """What drafts tokens that a decode step verifies; None: nothing."""
        ...

    def kernels(self, layouts: Layouts) -> StepKernels:
        """Kernel times of a step in each layout."""
        ...


class Drafting(msgspec.Struct, frozen=True):
    """What drafts tokens, and how many of them stay.

    Attributes:
        passes: Of the draft in a step: one for each drafted token.
        tokens_per_step: Mean tokens that a verifying step gives a sequence, 1 to passes + 1.
        first: The first pass's steps: it takes in what the last verification accepted.
        further: The other passes' steps, of one token a sequence.
    """

    passes: int
    tokens_per_step: float
    first: Setting
    further: Setting


class Setting(msgspec.Struct, frozen=True):
    """What stays fixed over a sweep: model (in its dtype), GPU, engine, KV dtype, coefficients."""

    arch: Model
    gpu: Gpu
    engine: str
    kv_dtype: str
    coefficients: Mapping[str, float]
    version: str = ""
    all_reduce: str = ""  #: a compressing algorithm that was switched on; "": the engine's own
    drafting: Drafting | None = None  #: None: each step gives a sequence one token
    query_tokens: int = 1  #: of each sequence in a decode step
    fabric: Fabric | None = None  #: what joins nodes, where there are several

    def work(self, layouts: Layouts) -> Work:
        """Bytes and FLOPs of one rank under each layout."""
        return rank_work(self.arch, layouts, self.kv_dtype)

    def kernels(self, layouts: Layouts) -> StepKernels:
        """Kernel times of a step in each layout."""
        platform = Node(self.gpu, self.engine, self.version, self.all_reduce, self.fabric)
        return step_kernels(self.arch, platform, self.kv_dtype, layouts, self.query_tokens)

    def compute_dtype(self, fmt: Format) -> str:
        """What weights of a format are multiplied in, as a key of rates.

        Weight-only formats are widened to 16 bits; so are formats whose activations the GPU
        cannot multiply.
        """
        wanted = "fp8" if fmt.activations == "int8" else fmt.activations
        if wanted in ("fp4", "fp8"):
            return wanted if wanted in self.gpu.flops else "bf16"
        return "fp32" if wanted == "fp32" else "bf16"


def smooth_maximum(a: Array, b: Array, sharpness: float) -> Array:
    """(a^p + b^p)^(1/p) of two positive times: their sum at p = 1, the larger one for large p."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    return np.asarray(
        high * (1.0 + (low / np.maximum(high, 1e-30)) ** sharpness) ** (1.0 / sharpness)
    )


def step_time(
    setting: Steps,
    kernels: StepKernels,
    sequences: Array,
    context: Array,
    prompt_tokens: Array,
    prompt_context: Array,
    prompt_length: Array | None = None,
) -> StepTime:
    """One step: `sequences` decode at a mean `context`, and `prompt_tokens` are prefilled, each
    attending to `prompt_context` earlier tokens on average; `prompt_length` of them are one
    prompt's, by default twice the context: a prompt of which nothing was cached.

    Each sequence has the kernels' `query_tokens` tokens in the step, of one context.
    With data-parallel attention, sequences are spread over its copies evenly; so are prompt
    tokens, but one prompt stays in one copy, and the others wait for it.
    """
    c, copies = setting.coefficients, kernels.of(kernels.attention_dp)
    shape = np.broadcast_shapes(
        np.shape(kernels.index), np.shape(sequences), np.shape(context), np.shape(prompt_tokens)
    )
    subject = np.broadcast_to(kernels.index, shape)
    sequences, context, prompt_tokens, prompt_context = (
        np.broadcast_to(np.asarray(x, np.float64), shape)
        for x in (sequences, context, prompt_tokens, prompt_context)
    )
    # a step is as long as the fullest copy's: with fewer sequences than copies, some have none
    own = np.maximum(sequences / copies, np.minimum(sequences, 1.0))
    length = 2.0 * np.maximum(prompt_context, 1.0) if prompt_length is None else prompt_length
    prompts = np.maximum(prompt_tokens / copies, np.minimum(prompt_tokens, length))
    prompts = np.where(copies > 1, prompts, prompt_tokens)
    queries = kernels.of(kernels.query_tokens)
    dense = along(kernels.dense, subject, place(own * queries + prompts, TOKENS))
    weights = c["gemm"] * dense[..., GEMM_WEIGHTS]
    compute = c["matrix"] * dense[..., GEMM_MATRIX]
    rows = own * queries + np.minimum(prompt_tokens, 1.0)
    weights = weights + c["gemm"] * along(kernels.head, subject, place(rows, TOKENS))
    messages = dense[..., REDUCE]
    if kernels.experts is not None:
        routed = along(kernels.experts, subject, place(sequences * queries + prompt_tokens, TOKENS))
        weights = weights + c["experts"] * routed[..., EXPERT_WEIGHTS]
        compute = compute + c["matrix_experts"] * routed[..., EXPERT_MATRIX]
        messages = messages + routed[..., EXCHANGE]
    if kernels.merge.any():
        merges = along(kernels.merge, subject, place(own * queries, SEQUENCES))
        messages = messages + np.minimum(own, 1.0) * merges
    ranks = kernels.of(kernels.ranks)
    communication = c["collective"] * messages + c["skew"] * (ranks - 1.0) * kernels.of(
        kernels.messages
    )
    seen = place(context, CONTEXTS, 1)
    read = across(kernels.decode, subject, place(own, SEQUENCES), seen)
    kv = np.where(own > 0, c["attention_decode"] * np.minimum(own, 1.0) * read, 0.0)
    scored = across(
        kernels.prefill, subject, place(prompts, TOKENS), place(prompt_context, CONTEXTS, 1)
    )
    compute = compute + np.where(prompts > 0, c["attention"] * scored, 0.0)
    layers = kernels.of(kernels.layers)
    # activations of a decode step stay in the L2 cache; those of a prompt go through memory
    tokens = np.maximum(own * queries + prompts, 1e-9)
    factor = (own * queries + c["elementwise"] * prompts) / tokens
    gaps = kernels.of(kernels.small) * c["launch"] + factor * dense[..., ELEMENTWISE]
    device = weights + compute + kv + communication + gaps
    # without a graph the host launches ahead of the device: the slower of the two is waited for
    launches = np.where(prompt_tokens > 0, layers * c["eager_layer"], 0.0)
    waiting = smooth_maximum(device, launches, HOST_KNEE) - device
    overhead = c["step"] + c["sequence"] * sequences + gaps + waiting
    parts = (weights, kv, compute, communication, overhead)
    return StepTime(*(np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in parts))
