"""What fits: weights, KV cache, activations and the engine's own memory on one rank.

Functions broadcast over arrays of tp_size, so a sweep costs one call. "GB" is 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shardwise.architecture.kv import kv_bytes
from shardwise.architecture.model import Architecture
from shardwise.architecture.parameters import WEIGHT_BYTES, count
from shardwise.architecture.rank import padded_vocab, rank_weight_bytes
from shardwise.architecture.sharding import allowed_tp
from shardwise.errors import DoesNotFitError
from shardwise.evidence.record import Deployment
from shardwise.hardware.gpu import Gpu
from shardwise.units import GB

Floats = NDArray[np.float64]
Numbers = float | NDArray[np.int64] | NDArray[np.float64]

#: Estimates, each good to about half: vLLM's start-up log names them "non-torch memory" (driver
#: context; with TP also NCCL or RCCL channels and the custom all-reduce buffers) and "graph
#: capturing took … GiB". They vary with version and driver.
CONTEXT_BYTES: Final = 0.6 * GB
COLLECTIVE_BYTES: Final = 0.8 * GB
GRAPH_BYTES: Final = 1.0 * GB
#: Sampling keeps the logits, their softmax and a sorted copy, each in 32 bits.
_SAMPLER_BYTES_PER_LOGIT: Final = 12.0
#: Dtypes looked through, widest first, when one that fits is sought.
_NARROWER: Final = ("bf16", "fp8", "fp4")


@dataclass(frozen=True)
class Ranks:
    """The settings of a deployment that decide its memory: each a number, or an array to sweep."""

    weight_dtype: str = "auto"
    kv_dtype: str = "auto"
    tp_size: Numbers = 1
    pp_size: Numbers = 1
    max_num_batched_tokens: Numbers = 8192
    max_num_seqs: Numbers = 256
    gpu_memory_utilization: Numbers = 0.9

    @classmethod
    def of(cls, deployment: Deployment) -> Ranks:
        return cls(**{field.name: getattr(deployment, field.name) for field in fields(cls)})


def activation_bytes(arch: Architecture, ranks: Ranks) -> Floats:
    """Peak of one rank's activations in a full step, in 16 bits.

    The widest moment of a layer: residual and its normed copy (2 x hidden), and the MLP's gate, up
    and product (3 x width/tp; for experts, top_k of them and their top_k outputs). Then
    the sampler's logits for `max_num_seqs`. This is what vLLM's profiling run measures.
    """
    tp = np.asarray(ranks.tp_size, np.float64)
    width = 3.0 * arch.intermediate_size / tp
    if arch.moe:
        moe = arch.moe
        routed = moe.top_k * (3.0 * moe.expert_intermediate_size / tp + arch.hidden_size)
        width = np.maximum(width, routed + 3.0 * moe.shared_intermediate_size / tp)
    tokens = np.asarray(ranks.max_num_batched_tokens, np.float64)
    logits = np.asarray(ranks.max_num_seqs, np.float64) * padded_vocab(arch, ranks.tp_size)
    layer = 2.0 * tokens * (2.0 * arch.hidden_size + width)
    return np.asarray(layer + _SAMPLER_BYTES_PER_LOGIT * logits)


def engine_bytes(ranks: Ranks) -> Floats:
    """Bytes the engine and the driver keep on each GPU."""
    several = np.asarray(ranks.tp_size) * np.asarray(ranks.pp_size) > 1
    return np.asarray(CONTEXT_BYTES + GRAPH_BYTES + COLLECTIVE_BYTES * several)


def kv_budget_bytes(arch: Architecture, memory_bytes: Numbers, ranks: Ranks) -> Floats:
    """Bytes left on the fullest rank for KV cache; negative by what is short."""
    usable = np.asarray(memory_bytes, np.float64) * np.asarray(ranks.gpu_memory_utilization)
    weights = rank_weight_bytes(arch, ranks.weight_dtype, ranks.tp_size, ranks.pp_size)
    return np.asarray(usable - weights - activation_bytes(arch, ranks) - engine_bytes(ranks))


def sequence_bytes(arch: Architecture, context_tokens: Numbers, ranks: Ranks) -> Floats:
    """Bytes of KV cache of one sequence on the fullest rank."""
    return kv_bytes(arch, context_tokens, ranks.kv_dtype, ranks.tp_size, ranks.pp_size)


def largest_batch(
    arch: Architecture, kv_budget: Numbers, context_tokens: Numbers, ranks: Ranks
) -> Floats:
    """Whole sequences of `context_tokens` that `kv_budget` bytes hold at once."""
    held = np.maximum(np.asarray(kv_budget), 0.0) / sequence_bytes(arch, context_tokens, ranks)
    return np.asarray(np.floor(held))


def kv_capacity_tokens(
    arch: Architecture, kv_budget: Numbers, context_tokens: Numbers, ranks: Ranks
) -> Floats:
    """Tokens that `kv_budget` bytes hold, kept in sequences of `context_tokens` each.

    The length matters to sliding-window models alone, which forget what the window has left.
    """
    each = sequence_bytes(arch, context_tokens, ranks) / np.asarray(context_tokens)
    return np.asarray(np.floor(np.maximum(np.asarray(kv_budget), 0.0) / each))


def largest_context(arch: Architecture, kv_budget: Numbers, ranks: Ranks) -> Floats:
    """Longest single sequence that fits, in tokens; at most the model's own context."""
    # one token in every layer, before any window forgets
    token = sequence_bytes(arch, 1, ranks) / arch.num_layers
    held = np.maximum(np.asarray(kv_budget), 0.0) / token  # tokens, summed over the layers
    longest = held / arch.num_layers
    if arch.num_sliding_layers:
        full = arch.num_layers - arch.num_sliding_layers
        windows = arch.num_sliding_layers * arch.sliding_window
        beyond = (held - windows) / full if full else np.full(held.shape, np.inf)
        longest = np.where(longest <= arch.sliding_window, longest, beyond)
    return np.asarray(np.floor(np.minimum(longest, arch.max_context)))


@dataclass(frozen=True)
class MemoryPlan:
    """How the fullest rank's memory is used, in bytes, and what that admits."""

    memory_bytes: float
    budget_bytes: float  #: memory x gpu_memory_utilization
    weight_bytes: float
    activation_bytes: float
    engine_bytes: float
    kv_budget_bytes: float  #: negative if not even the rest fits
    kv_bytes_per_sequence: float
    kv_capacity_tokens: int
    largest_batch: int  #: sequences of the context asked
    largest_context: int  #: of a single sequence

    @property
    def shortfall_bytes(self) -> float:
        """What is missing to hold one sequence; 0 if it fits."""
        return max(self.kv_bytes_per_sequence - self.kv_budget_bytes, 0.0)

    @property
    def fits(self) -> bool:
        return self.shortfall_bytes == 0.0


def plan(arch: Architecture, gpu: Gpu, deployment: Deployment, context_tokens: float) -> MemoryPlan:
    """Memory of one rank of `deployment` for sequences of `context_tokens` (isl + osl)."""
    ranks = Ranks.of(deployment)
    budget = kv_budget_bytes(arch, gpu.memory_bytes, ranks)
    weights = rank_weight_bytes(arch, ranks.weight_dtype, ranks.tp_size, ranks.pp_size)
    return MemoryPlan(
        memory_bytes=gpu.memory_bytes,
        budget_bytes=gpu.memory_bytes * deployment.gpu_memory_utilization,
        weight_bytes=float(weights),
        activation_bytes=float(activation_bytes(arch, ranks)),
        engine_bytes=float(engine_bytes(ranks)),
        kv_budget_bytes=float(budget),
        kv_bytes_per_sequence=float(sequence_bytes(arch, context_tokens, ranks)),
        kv_capacity_tokens=int(kv_capacity_tokens(arch, budget, context_tokens, ranks)),
        largest_batch=int(largest_batch(arch, budget, context_tokens, ranks)),
        largest_context=int(largest_context(arch, budget, ranks)),
    )


def require_fit(
    arch: Architecture, gpu: Gpu, deployment: Deployment, context_tokens: float
) -> MemoryPlan:
    """The plan of a deployment that holds at least one sequence.

    Raises DoesNotFitError: what is short, by how many GB, and the smallest TP or dtype that fits.
    """
    found = plan(arch, gpu, deployment, context_tokens)
    if found.fits:
        return found
    d, p = deployment, found
    what = "weights" if p.kv_budget_bytes < 0 else f"KV cache for {context_tokens:,.0f} tokens"
    engine_gb = (p.activation_bytes + p.engine_bytes) / GB
    raise DoesNotFitError(
        f"{arch.id} in {d.weight_dtype} at TP={d.tp_size} x PP={d.pp_size} does not fit "
        f"{gpu.name}: no room for the {what}, {p.shortfall_bytes / GB:.1f} GB a GPU short of the "
        f"{p.budget_bytes / GB:.1f} GB usable (weights {p.weight_bytes / GB:.1f}, activations and "
        f"engine {engine_gb:.1f}, KV cache {p.kv_bytes_per_sequence / GB:.1f}); "
        f"{_what_fits(arch, gpu, d, context_tokens)}"
    )


def smallest_fitting_tp(
    arch: Architecture, gpu: Gpu, deployment: Deployment, context_tokens: float
) -> int | None:
    """The smallest TP within a node that the model allows and that holds one sequence."""
    sizes = allowed_tp(
        arch,
        gpu.node_gpus,
        expert_parallel=deployment.expert_parallel,
        weight_dtype=deployment.weight_dtype,
    )
    for tp in sizes:
        if plan(arch, gpu, replace(deployment, tp_size=tp), context_tokens).fits:
            return tp
    return None


def _what_fits(arch: Architecture, gpu: Gpu, deployment: Deployment, context_tokens: float) -> str:
    options = []
    tp = smallest_fitting_tp(arch, gpu, deployment, context_tokens)
    if tp is not None:
        options.append(f"TP={tp} in {deployment.weight_dtype}")
    if plan(arch, gpu, replace(deployment, kv_dtype="fp8"), context_tokens).fits:
        options.append("an fp8 KV cache")
    for dtype in _NARROWER:
        narrower = replace(deployment, weight_dtype=dtype)
        if plan(arch, gpu, narrower, context_tokens).fits:
            options.append(f"{dtype} at TP={deployment.tp_size}")
            break
    if options:
        return f"what fits: {' or '.join(options)}"
    return f"nothing in one node of {gpu.node_gpus} fits: use GPUs with more memory or PP"


@dataclass(frozen=True)
class LargestModel:
    """The largest model that one GPU holds in one dtype."""

    gpu: str
    dtype: str
    max_parameters: float  #: whose weights alone fill what is left, all in this dtype
    model: str  #: the largest given model that fits with one sequence; "" for none
    parameters: int
    weight_bytes: float


def largest_models(
    gpus: Iterable[Gpu],
    models: Iterable[Architecture],
    dtypes: Iterable[str] = ("bf16", "fp8", "fp4"),
    context_tokens: float = 8192,
    gpu_memory_utilization: float = 0.9,
) -> list[LargestModel]:
    """A row for each GPU and dtype: the largest of `models` that one such GPU holds."""
    known = sorted(models, key=lambda arch: count(arch).total, reverse=True)
    wanted = tuple(dtypes)
    return [
        _largest_model(gpu, known, dtype, context_tokens, gpu_memory_utilization)
        for gpu in gpus
        for dtype in wanted
    ]


def _largest_model(
    gpu: Gpu, known: list[Architecture], dtype: str, context_tokens: float, utilization: float
) -> LargestModel:
    left = gpu.memory_bytes * utilization - float(engine_bytes(Ranks()))
    per_weight = WEIGHT_BYTES["nvfp4" if dtype == "fp4" else dtype]
    name, parameters, weights = "", 0, 0.0
    for arch in known:
        deployment = Deployment(
            arch.id, gpu.id, 1, weight_dtype=dtype, gpu_memory_utilization=utilization
        )
        found = plan(arch, gpu, deployment, context_tokens)
        if found.fits:
            name, parameters, weights = arch.id, count(arch).total, found.weight_bytes
            break
    return LargestModel(gpu.id, dtype, max(left, 0.0) / per_weight, name, parameters, weights)
