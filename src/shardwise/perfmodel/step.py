"""Time of one engine step: some sequences decode, some prompt tokens are prefilled.

Units are seconds and tokens. Every argument broadcasts. The parts are returned apart, since what
binds a step is the answer most users are after.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import WEIGHT_BYTES
from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.work import Array, Work, rank_work

#: Sharpness of the roofline's knee: (a^p + b^p)^(1/p) instead of max(a, b).
KNEE: Final = 2.0
CPU_KNEE: Final = 1.0  #: the same core loads a weight and multiplies it, one after the other
HOST_KNEE: Final = 4.0  #: the same, of launching a step's kernels and computing them
#: Largest message of an engine's own all-reduce, fused or not; NCCL or RCCL takes larger ones
#: (vLLM's custom_all_reduce.py, max_size; InferenceX sets FlashInfer's fusion to it at TP=8).
OWN_REDUCE_BYTES: Final = 8.0 * 2**20
#: Tokens at which half of what few tokens cost extra in matrix kernels is gone.
FULL_TILES: Final = 512.0
SMALL_TILE: Final = 16.5  #: tokens; batches of 16 still take the small tile
_RATE_CLASS: Final = {
    "mxfp4": "fp4",
    "nvfp4": "fp4",
    "fp4": "fp4",
    "int4": "fp4",
    "int8": "fp8",
    "fp8": "fp8",
}


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by cause; arrays of one shape."""

    weights: Array
    kv: Array
    compute: Array
    communication: Array
    overhead: Array

    @property
    def total(self) -> Array:
        return self.weights + self.kv + self.compute + self.communication + self.overhead

    def scaled(self, factor: Array | float) -> StepTime:
        return StepTime(*(getattr(self, f.name) * factor for f in fields(self)))

    def plus(self, other: StepTime) -> StepTime:
        return StepTime(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Setting:
    """What stays fixed over a sweep: model, GPU, dtypes, coefficients, collectives."""

    arch: Architecture
    gpu: Gpu
    weight_dtype: str
    kv_dtype: str
    coefficients: dict[str, float]
    collectives: Collectives

    @property
    def kv_element_bytes(self) -> float:
        return WEIGHT_BYTES[self.kv_dtype]

    def work(self, tp_size: Array) -> Work:
        return rank_work(self.arch, tp_size, self.weight_dtype, self.kv_element_bytes)

    @property
    def rate_class(self) -> str:
        return _RATE_CLASS.get(self.weight_dtype, "bf16")

    @property
    def compute_dtype(self) -> str:
        """What is multiplied: 4-bit weights without activations of 4 bits are widened to bf16.

        mxfp4 and int4 kernels keep bf16 activations on GPUs before Blackwell and CDNA 4.
        """
        if self.rate_class == "fp4":
            native = "fp4" in self.gpu.flops and self.weight_dtype in {"fp4", "nvfp4", "mxfp4"}
            return "fp4" if native else "bf16"
        if self.rate_class == "fp8":
            return "fp8" if "fp8" in self.gpu.flops else "bf16"
        return self.plain_dtype

    @property
    def plain_dtype(self) -> str:
        """What the matrices that are never quantized are multiplied in: lm_head, attention."""
        return "fp32" if self.weight_dtype == "fp32" else "bf16"

    @property
    def knee(self) -> float:
        """How sharply memory takes over from arithmetic as what a matrix waits for."""
        return CPU_KNEE if self.gpu.vendor == "cpu" else KNEE

    def stream_rate(self, rate_class: str) -> float:
        """Bytes/s at which weights of "bf16", "fp8" or "fp4" are read."""
        relative = 1.0 if rate_class == "bf16" else self.coefficients[f"bandwidth_{rate_class}"]
        return self.coefficients["bandwidth"] * relative * self.gpu.memory_bandwidth

    @property
    def cache_share(self) -> float:
        """Share of the memory bandwidth at which the KV cache is read."""
        c = self.coefficients
        return c["bandwidth_kv"] * (c["bandwidth_kv_fp8"] if self.kv_element_bytes < 2.0 else 1.0)

    def matrix_rate(self, dtype: str) -> float:
        """FLOP/s reached by large matrices multiplied in `dtype`."""
        relative = 1.0 if dtype in ("bf16", "fp32") else self.coefficients[f"matrix_{dtype}"]
        return self.coefficients["matrix"] * relative * self.gpu.matrix_rate(dtype)


def _knee(a: Array, b: Array, sharpness: float) -> tuple[Array, Array]:
    """A smooth maximum of two times, shared between them by what each would take alone."""
    total = smooth_maximum(a, b, sharpness)
    share = a**sharpness / np.maximum(a**sharpness + b**sharpness, 1e-300)
    return total * share, total * (1.0 - share)


def smooth_maximum(a: Array, b: Array, sharpness: float) -> Array:
    """(a^p + b^p)^(1/p) of two positive times: their sum at p = 1, the larger one for large p."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    return np.asarray(
        high * (1.0 + (low / np.maximum(high, 1e-30)) ** sharpness) ** (1.0 / sharpness)
    )


def _all_reduces(setting: Setting, tp_size: Array, message: Array) -> Array:
    """Seconds of a step's all-reduces of `message` bytes: two a layer (after attention and after
    the MLP) and one for the embedding; none at TP=1."""
    c = setting.coefficients
    each = np.where(message > OWN_REDUCE_BYTES, c["bulk"], c["collective"])
    each = each * setting.collectives.time(tp_size, message) + c["skew"] * (tp_size - 1)
    return np.where(tp_size > 1, (2 * setting.arch.num_layers + 1) * each, 0.0)


def experts_touched(num_experts: int, top_k: int, tokens: Array) -> Array:
    """Expected share of the experts that `tokens` tokens route to, if routing is uniform:
    1 - (1 - k/E)^tokens."""
    return np.asarray(1.0 - (1.0 - top_k / num_experts) ** tokens)


def busiest(mean: Array, spread: Array, ranks: Array) -> Array:
    """The largest of `ranks` normal draws: mean + sqrt(2 ln ranks) standard deviations, the
    asymptote of extreme values (Cramer 1946, section 28.6); `mean` for one rank."""
    return np.asarray(mean + np.sqrt(2.0 * np.log(ranks)) * spread)


def _experts(
    setting: Setting, work: Work, tokens: Array, expert_ranks: Array
) -> tuple[Array, Array]:
    """Seconds that the routed experts' weights and matrices take.

    Cut by TP (`expert_ranks` 1), every rank does the same. Kept whole on `expert_ranks` ranks, all
    wait for the rank that more of the tokens, and more of the experts, fall to: each token goes
    there with its share k/ranks of the choices, each expert is touched or not.
    """
    c, moe = setting.coefficients, setting.arch.moe
    assert moe is not None
    touched = experts_touched(moe.num_experts, moe.top_k, tokens)
    own = moe.num_experts / expert_ranks
    distinct = np.minimum(
        busiest(own * touched, np.sqrt(own * touched * (1.0 - touched)), expert_ranks), own
    )
    choices = tokens * moe.top_k / expert_ranks
    routed = np.minimum(
        busiest(choices, np.sqrt(choices * (1.0 - 1.0 / expert_ranks)), expert_ranks),
        tokens * moe.top_k,
    )
    read = work.expert_bytes * distinct / own
    flops = work.expert_flops_per_token * tokens * routed / np.maximum(choices, 1e-30)
    stream = c["bandwidth_experts"] * setting.stream_rate(setting.rate_class)
    rate = c["matrix_experts"] * setting.matrix_rate(setting.compute_dtype)
    return _knee(read / stream, flops / rate, setting.knee)


def _visible(arch: Architecture, context: Array) -> Array:
    """Mean number of earlier tokens a layer attends to, sliding windows counted."""
    if not arch.sliding_window:
        return context
    share = arch.num_sliding_layers / arch.num_layers
    return np.asarray((1 - share) * context + share * np.minimum(context, arch.sliding_window))


def step_time(
    setting: Setting,
    work: Work,
    tp_size: Array,
    sequences: Array,
    context: Array,
    prompt_tokens: Array,
    prompt_context: Array,
    expert_ranks: Array | float = 1.0,
) -> StepTime:
    """One step: `sequences` decode at a mean `context`, and `prompt_tokens` are prefilled, each
    attending to `prompt_context` earlier tokens on average. `expert_ranks`: ranks that whole
    experts are spread over; 1 where TP cuts them."""
    c, gpu, arch = setting.coefficients, setting.gpu, setting.arch
    bandwidth, rate_class = gpu.memory_bandwidth, setting.rate_class
    tokens = sequences + prompt_tokens

    dense_dtype = "bf16" if setting.weight_dtype == "mxfp4" else setting.compute_dtype
    dense_class = "bf16" if setting.weight_dtype == "mxfp4" else rate_class
    dense_rate = setting.matrix_rate(dense_dtype)
    # fp8 kernels switch to a taller tile above 16 rows, which streams weights more slowly
    tile = 1.0 + c["tile_fp8"] * (tokens > SMALL_TILE) if dense_class == "fp8" else 1.0
    thin = 1.0 + c["small_batch"] / (1.0 + tokens / FULL_TILES)
    weights, compute = _knee(
        work.weight_bytes * tile / setting.stream_rate(dense_class),
        work.weight_flops_per_token * tokens * thin / dense_rate,
        setting.knee,
    )
    head_w, head_c = _knee(
        work.head_bytes / setting.stream_rate("bf16"),
        work.head_flops_per_token
        * (sequences + np.minimum(prompt_tokens, 1.0))
        / setting.matrix_rate(setting.plain_dtype),
        setting.knee,
    )
    weights, compute = weights + head_w, compute + head_c
    if arch.moe:
        expert_w, expert_c = _experts(setting, work, tokens, np.asarray(expert_ranks))
        weights, compute = weights + expert_w, compute + expert_c
    visible = _visible(arch, prompt_context)
    compute = compute + work.attention_flops_per_token_pair * prompt_tokens * visible / (
        c["attention"] * gpu.matrix_rate(setting.plain_dtype)
    )
    compute = compute + c["elementwise"] * work.elementwise_bytes_per_token * tokens / (
        0.8 * bandwidth
    )
    window = np.minimum(context, arch.sliding_window) if arch.sliding_window else context
    kv = (
        sequences
        * (work.kv_bytes_per_token * context + work.kv_window_bytes_per_token * window)
        / (setting.cache_share * bandwidth)
    )
    communication = _all_reduces(setting, tp_size, tokens * work.message_bytes_per_token)
    graph_gaps = arch.num_layers * c["layer"]
    launches = np.where(prompt_tokens > 0, arch.num_layers * c["eager_layer"], 0.0)
    device = weights + compute + kv + communication + graph_gaps
    # without a graph the host launches ahead of the device: the slower of the two is waited for
    waiting = smooth_maximum(device, launches, HOST_KNEE) - device
    overhead = c["step"] + c["sequence"] * sequences + graph_gaps + waiting
    shape = np.broadcast_shapes(np.shape(weights), np.shape(tokens), np.shape(kv))
    parts = (weights, kv, compute, communication, overhead)
    return StepTime(*(np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in parts))
