"""Time of one engine step: some sequences decode, some prompt tokens are prefilled.

Units are seconds and tokens. Every argument broadcasts. The time of a step is the sum of its kernel
times (`operators`) and the engine's own time. Each class of kernels has a fitted factor, which is 1
if the tables are exact. The parts are returned separately, to show what limits a step.
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

#: Sharpness of the transition from launch-bound to GPU-bound steps.
HOST_KNEE: Final = 4.0
#: Share of a layer's launches that is left if all but its attention runs as graphs: two of about
#: ten, of the piece and of attention. Assumed.
PIECEWISE_SHARE: Final = 0.2


class StepTime(msgspec.Struct, frozen=True):
    """Seconds of one step by cause; arrays of one shape.

    Attributes:
        weights: Memory-bound part of GEMMs and experts: reading weights.
        kv: Attention of decodes: reading caches and states.
        compute: Compute-bound part of GEMMs and experts, and attention of prompts.
        communication: Collectives.
        overhead: The engine's own time, and kernels without a table: norms, activations.
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
    """Inputs of the step time: kernels, and coefficients, which are numbers or arrays with one
    element per configuration."""

    @property
    def coefficients(self) -> Mapping[str, Array | float]:
        """Coefficients by name."""

    @property
    def drafting(self) -> Drafting | None:
        """Speculative decoding; None: off."""
        ...

    def kernels(self, layouts: Layouts) -> StepKernels:
        """Kernel times of a step in each layout."""
        ...


class Drafting(msgspec.Struct, frozen=True):
    """Speculative decoding: the draft passes, and the tokens accepted.

    Attributes:
        passes: Draft passes per step, one for each drafted token.
        tokens_per_step: Mean tokens that a step produces per sequence, 1 to passes + 1.
        first: Steps of the first pass, which processes the tokens accepted last.
        further: Steps of the other passes, with one token per sequence.
    """

    passes: int
    tokens_per_step: float
    first: Setting
    further: Setting


class Setting(msgspec.Struct, frozen=True):
    """Inputs that are fixed over a sweep; `arch` is the model in its dtype."""

    arch: Model
    gpu: Gpu
    engine: str
    kv_dtype: str
    coefficients: Mapping[str, float]
    version: str = ""
    all_reduce: str = ""  #: enabled compressing algorithm; "": the engine's default
    drafting: Drafting | None = None  #: None: no speculative decoding
    query_tokens: int = 1  #: tokens of each sequence in a decode step
    fabric: Fabric | None = None  #: network between nodes; None: one node

    def work(self, layouts: Layouts) -> Work:
        """Bytes and FLOPs of one rank under each layout."""
        return rank_work(self.arch, layouts, self.kv_dtype)

    def kernels(self, layouts: Layouts) -> StepKernels:
        """Kernel times of a step in each layout."""
        platform = Node(self.gpu, self.engine, self.version, self.all_reduce, self.fabric)
        return step_kernels(self.arch, platform, self.kv_dtype, layouts, self.query_tokens)

    def compute_dtype(self, fmt: Format) -> str:
        """Return the dtype in which weights of a format are multiplied, as a key of `Gpu.flops`.

        Weight-only formats are multiplied in 16 bits, as are formats that the GPU's matrix units do
        not support.
        """
        wanted = "fp8" if fmt.activations == "int8" else fmt.activations
        if wanted in ("fp4", "fp8"):
            return wanted if wanted in self.gpu.flops else "bf16"
        return "fp32" if wanted == "fp32" else "bf16"


def smooth_maximum(a: Array, b: Array, sharpness: float) -> Array:
    """Return (a^p + b^p)^(1/p) for positive times, with p = `sharpness`: the sum for p = 1, the
    maximum for large p."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    return np.asarray(
        high * (1.0 + (low / np.maximum(high, 1e-30)) ** sharpness) ** (1.0 / sharpness)
    )


def _waiting_s(device: Array, launches: Array, as_graphs: Array | float) -> Array:
    """Return the seconds that the GPU waits for the host, which launches kernels ahead of it; the
    slower of the two counts."""
    eager = smooth_maximum(device, launches, HOST_KNEE) - device
    if not np.any(as_graphs):
        return eager
    pieces = smooth_maximum(device, PIECEWISE_SHARE * launches, HOST_KNEE) - device
    return np.asarray(eager + as_graphs * (pieces - eager))


def step_time(
    setting: Steps,
    kernels: StepKernels,
    sequences: Array,
    context: Array,
    prompt_tokens: Array,
    prompt_context: Array,
    prompt_length: Array | None = None,
    as_graphs: Array | float = 0.0,
) -> StepTime:
    """Return the time of one step. Arguments broadcast against `kernels.index`.

    With data-parallel attention, sequences and prompt tokens are spread evenly over its replicas.
    A single prompt stays on one replica, and the others wait for it.

    Args:
        setting: Coefficients.
        kernels: Kernel times. Each decoding sequence has their `query_tokens` tokens.
        sequences: Decoding sequences.
        context: Mean context of a decoding sequence, in tokens.
        prompt_tokens: Tokens that are prefilled.
        prompt_context: Mean number of earlier tokens to which a prompt token attends.
        prompt_length: Uncached tokens of one prompt; by default twice `prompt_context`, which
            holds for a prompt without cached tokens.
        as_graphs: Share of such steps with prompts that run as CUDA graphs but for attention.
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
    # the fullest replica determines the step time; with fewer sequences, some replicas are idle
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
    # in a call that serves decodes too, a prompt adds its work
    scored = np.maximum(scored - np.minimum(own, 1.0) * kernels.of(kernels.least_prefill), 0.0)
    compute = compute + np.where(prompts > 0, c["attention"] * scored, 0.0)
    # activations of a decode step stay in the L2 cache; those of a prompt go to memory
    tokens = np.maximum(own * queries + prompts, 1e-9)
    factor = (own * queries + c["elementwise"] * prompts) / tokens
    gaps = kernels.of(kernels.small) * c["launch"] + factor * dense[..., ELEMENTWISE]
    device = weights + compute + kv + communication + gaps
    waiting: Array | float = 0.0
    if np.any(prompt_tokens > 0):
        launches = kernels.of(kernels.launched) * c["eager_kernel"]
        waiting = np.where(prompt_tokens > 0, _waiting_s(device, launches, as_graphs), 0.0)
    # each attention replica has a scheduler of its own
    overhead = c["step"] + c["sequence"] * own + gaps + waiting
    parts = (weights, kv, compute, communication, overhead)
    return StepTime(*(np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in parts))
