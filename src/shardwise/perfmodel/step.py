"""Time of one engine step: some sequences decode, some prompt tokens are prefilled.

Units are seconds and tokens. Every argument broadcasts. The parts are returned apart, since what
binds a step is the answer most users are after.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from shardwise.architecture.formats import Format
from shardwise.architecture.model import Model
from shardwise.hardware.gpu import Gpu
from shardwise.layout.arrays import Layouts
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
#: Format's dtype -> class of rates that its weights are read at.
_RATE_CLASS: Final = {
    **dict.fromkeys(("mxfp4", "nvfp4", "int4", "nf4", "mxfp6"), "fp4"),
    **dict.fromkeys(("fp8", "int8", "mxfp8"), "fp8"),
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


def rate_class(fmt: Format) -> str:
    """Class of rates that weights of a format are read at: "bf16", "fp8" or "fp4"."""
    return _RATE_CLASS.get(fmt.dtype, "bf16")


@dataclass(frozen=True)
class Setting:
    """What stays fixed over a sweep: model (in its dtype), GPU, KV dtype, coefficients."""

    arch: Model
    gpu: Gpu
    kv_dtype: str
    coefficients: dict[str, float]
    collectives: Collectives

    def work(self, layouts: Layouts) -> Work:
        return rank_work(self.arch, layouts, self.kv_dtype)

    def compute_dtype(self, fmt: Format) -> str:
        """What weights of a format are multiplied in, as a key of rates.

        Weight-only formats are widened to 16 bits; so are formats whose activations the GPU
        cannot multiply.
        """
        wanted = "fp8" if fmt.activations == "int8" else fmt.activations
        if wanted in ("fp4", "fp8"):
            return wanted if wanted in self.gpu.flops else "bf16"
        return "fp32" if wanted == "fp32" else "bf16"

    @property
    def plain_dtype(self) -> str:
        """What is never quantized is multiplied in: lm_head, attention scores."""
        return "fp32" if self.arch.checkpoint_dtype == "fp32" else "bf16"

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
        return c["bandwidth_kv"] * (c["bandwidth_kv_fp8"] if self.kv_dtype == "fp8" else 1.0)

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


def _all_reduces(setting: Setting, tp_size: Array, message: Array, messages: int) -> Array:
    """Seconds of a step's `messages` all-reduces of `message` bytes each; none at TP=1."""
    c = setting.coefficients
    each = np.where(message > OWN_REDUCE_BYTES, c["bulk"], c["collective"])
    each = each * setting.collectives.time(tp_size, message) + c["skew"] * (tp_size - 1)
    return np.where(tp_size > 1, messages * each, 0.0)


def experts_touched(num_experts: int, top_k: int, tokens: Array) -> Array:
    """Expected share of the experts that `tokens` tokens route to, if routing is uniform:
    1 - (1 - k/E)^tokens."""
    return np.asarray(1.0 - (1.0 - top_k / num_experts) ** tokens)


def busiest(mean: Array, spread: Array, ranks: Array) -> Array:
    """The largest of `ranks` normal draws: mean + sqrt(2 ln ranks) standard deviations, the
    asymptote of extreme values (Cramer 1946, section 28.6); `mean` for one rank."""
    return np.asarray(mean + np.sqrt(2.0 * np.log(ranks)) * spread)


def _experts(setting: Setting, work: Work, tokens: Array, ep_size: Array) -> tuple[Array, Array]:
    """Seconds that the routed experts' weights and matrices take.

    Cut by TP (`ep_size` 1), every rank does the same. Kept whole on `ep_size` ranks, all wait for
    the rank that more of the tokens, and more of the experts, fall to: each token goes there with
    its share k/ranks of the choices, each expert is touched or not.
    """
    c, moe = setting.coefficients, setting.arch.moe
    assert moe is not None
    touched = experts_touched(moe.num_experts, moe.top_k, tokens)
    own = moe.num_experts / ep_size
    distinct = np.minimum(
        busiest(own * touched, np.sqrt(own * touched * (1.0 - touched)), ep_size), own
    )
    choices = tokens * moe.top_k / ep_size
    routed = np.minimum(
        busiest(choices, np.sqrt(choices * (1.0 - 1.0 / ep_size)), ep_size),
        tokens * moe.top_k,
    )
    uneven = routed / np.maximum(choices, 1e-30)
    weights, compute = np.zeros(()), np.zeros(())
    for stream in work.streams:
        if stream.kind == "experts":
            rate = c["bandwidth_experts"] * setting.stream_rate(rate_class(stream.format))
            matrix = c["matrix_experts"] * setting.matrix_rate(setting.compute_dtype(stream.format))
            w, m = _knee(
                stream.bytes * distinct / own / rate,
                stream.flops_per_token * tokens * uneven / matrix,
                setting.knee,
            )
            weights, compute = weights + w, compute + m
    return weights, compute


def _dense(setting: Setting, work: Work, tokens: Array) -> tuple[Array, Array]:
    """Seconds that the dense matrices of all layers take: reading them, and multiplying."""
    c = setting.coefficients
    thin = 1.0 + c["small_batch"] / (1.0 + tokens / FULL_TILES)
    weights, compute = np.zeros(()), np.zeros(())
    for stream in work.streams:
        if stream.kind == "dense":
            kind = rate_class(stream.format)
            # fp8 kernels switch to a taller tile above 16 rows, which streams more slowly
            tile = 1.0 + c["tile_fp8"] * (tokens > SMALL_TILE) if kind == "fp8" else 1.0
            w, m = _knee(
                stream.bytes * tile / setting.stream_rate(kind),
                stream.flops_per_token
                * tokens
                * thin
                / setting.matrix_rate(setting.compute_dtype(stream.format)),
                setting.knee,
            )
            weights, compute = weights + w, compute + m
    return weights, compute


def _head(setting: Setting, work: Work, rows: Array) -> tuple[Array, Array]:
    """Seconds of the output head for `rows` tokens whose logits are wanted."""
    weights, compute = np.zeros(()), np.zeros(())
    for stream in work.streams:
        if stream.kind == "head":
            w, m = _knee(
                stream.bytes / setting.stream_rate(rate_class(stream.format)),
                stream.flops_per_token * rows / setting.matrix_rate(setting.plain_dtype),
                setting.knee,
            )
            weights, compute = weights + w, compute + m
    return weights, compute


def _prompt_scores(setting: Setting, work: Work, tokens: Array, context: Array) -> Array:
    """Seconds of prefill attention: `tokens` that each see `context` earlier ones on average."""
    flops = sum(
        (s.flops_per_pair * np.minimum(context, s.limit) for s in work.scores), np.zeros(())
    )
    rate = setting.coefficients["attention"] * setting.gpu.matrix_rate(setting.plain_dtype)
    return np.asarray(tokens * flops / rate)


def _cache_read(setting: Setting, work: Work, sequences: Array, context: Array) -> Array:
    """Seconds that `sequences` take to read their caches and states at a mean `context`."""
    read = sum(
        (
            r.bytes_per_token * np.minimum(context, r.limit) + r.bytes_per_sequence
            for r in work.reads
        ),
        np.zeros(()),
    )
    return np.asarray(sequences * read / (setting.cache_share * setting.gpu.memory_bandwidth))


def step_time(
    setting: Setting,
    work: Work,
    layouts: Layouts,
    sequences: Array,
    context: Array,
    prompt_tokens: Array,
    prompt_context: Array,
) -> StepTime:
    """One step: `sequences` decode at a mean `context`, and `prompt_tokens` are prefilled, each
    attending to `prompt_context` earlier tokens on average."""
    c, arch = setting.coefficients, setting.arch
    tokens = sequences + prompt_tokens
    weights, compute = _dense(setting, work, tokens)
    head_w, head_c = _head(setting, work, sequences + np.minimum(prompt_tokens, 1.0))
    weights, compute = weights + head_w, compute + head_c
    if arch.moe:
        expert_w, expert_c = _experts(setting, work, tokens, layouts.ep_size)
        weights, compute = weights + expert_w, compute + expert_c
    compute = compute + _prompt_scores(setting, work, prompt_tokens, prompt_context)
    compute = compute + c["elementwise"] * work.elementwise_bytes_per_token * tokens / (
        0.8 * setting.gpu.memory_bandwidth
    )
    kv = _cache_read(setting, work, sequences, context)
    communication = _all_reduces(
        setting, layouts.tp_size, tokens * work.message_bytes_per_token, work.messages
    )
    graph_gaps = arch.num_layers * c["layer"]
    launches = np.where(prompt_tokens > 0, arch.num_layers * c["eager_layer"], 0.0)
    device = weights + compute + kv + communication + graph_gaps
    # without a graph the host launches ahead of the device: the slower of the two is waited for
    waiting = smooth_maximum(device, launches, HOST_KNEE) - device
    overhead = c["step"] + c["sequence"] * sequences + graph_gaps + waiting
    shape = np.broadcast_shapes(np.shape(weights), np.shape(tokens), np.shape(kv))
    parts = (weights, kv, compute, communication, overhead)
    return StepTime(*(np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in parts))
