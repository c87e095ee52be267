"""Memory of each rank: weights, caches, activations and the engine's own memory.

Functions work on arrays of deployments, so a sweep is one call. "GB" is 1e9 bytes. Pipeline stages
differ in layers, embedding and head; the stage with the least free memory limits a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.feed_forward import Mlp, Moe
from shardwise.architecture.formats import usual_format
from shardwise.architecture.model import Model
from shardwise.engines.device import device_of
from shardwise.engines.facts import Scheduling
from shardwise.engines.loading import Loader, loaded_stage_bytes
from shardwise.engines.registry import get
from shardwise.engines.startup import Load, StartupMemory
from shardwise.errors import DoesNotFitError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.layout.rules import allowed_tp
from shardwise.layout.shards import padded, rank_shards
from shardwise.perfmodel.drafts import draft_held
from shardwise.units import GB

Floats = NDArray[np.float64]

#: Dtypes to try, widest first, when searching for one that fits.
_NARROWER: Final = ("bf16", "fp8", "fp4")


def kv_dtype_of(model: Model, dtypes: Dtypes) -> str:
    """Return the KV cache dtype of a deployment: the given one, else the checkpoint's."""
    return model.kv_dtype if dtypes.kv == "auto" else dtypes.kv


def draft_of(model: Model, deployment: Deployment) -> Model | None:
    """Return the draft loaded with `model`; None without speculation."""
    return draft_held(model, deployment.speculation) if deployment.speculation else None


class Platform(msgspec.Struct, frozen=True):
    """A GPU and an engine, with or without a version."""

    gpu: Gpu
    engine: str = "vllm"
    engine_version: str = ""

    @classmethod
    def of(cls, gpu: Gpu, deployment: Deployment) -> Platform:
        """Return the platform of a deployment."""
        return cls(gpu, deployment.engine, deployment.engine_version)

    @property
    def loader(self) -> Loader:
        """How this engine loads weights on this device."""
        return Loader(self.engine, device_of(self.gpu), self.engine_version)

    @property
    def startup(self) -> StartupMemory:
        """Memory that the engine takes at start-up."""
        return get(self.engine).startup(device_of(self.gpu), self.engine_version)

    @property
    def scheduling(self) -> Scheduling:
        """Limits that the engine chooses on this device."""
        return get(self.engine).scheduling(device_of(self.gpu), self.engine_version)


def forward_bytes(model: Model, deployments: Deployments) -> Floats:
    """Return the peak of one rank's activations in a forward pass of `max_num_batched_tokens`, in
    16 bits.

    The widest point of a layer: residual and its normalized copy (2 x hidden), and the
    feed-forward's gate, up and product; for experts, `top_k` of them and their outputs.
    """
    width = deployments.layouts.gather(lambda layout: _widest(model, layout))
    return np.asarray(2.0 * deployments.max_num_batched_tokens * (2.0 * model.hidden_size + width))


def logits(model: Model, deployments: Deployments) -> Floats:
    """Return the number of logits of `max_num_seqs` sequences, gathered on every rank."""
    vocab = deployments.layouts.gather(
        lambda layout: padded(model.vocab_size, layout.tp_size) if model.generates else 0.0
    )
    return np.asarray(deployments.max_num_seqs * vocab)


def _widest(model: Model, layout: Layout) -> float:
    """Return the elements per token in the widest feed-forward of a rank.

    With data-parallel attention, each rank holds the tokens of all attention ranks before and
    after its experts, and computes its share.
    """
    widths = [0.0]
    copies = layout.attention_dp
    for group in model.groups:
        part = group.feed_forward
        if isinstance(part, Moe):
            expert = (2 + part.gated) * part.expert_width * copies / layout.stage_gpus
            routed = part.top_k * (expert + part.expert_input)
            gathered = 2.0 * part.expert_input * copies if copies > 1 else 0.0
            widths.append(routed + gathered + 3.0 * part.shared_width / layout.tp_size)
        elif isinstance(part, Mlp):
            widths.append((2 + part.gated) * part.width / layout.tp_size)
    return max(widths)


def by_stage(layouts: Layouts, of: Callable[[Layout], Floats | tuple[float, ...]]) -> Floats:
    """Return `of` a layout per stage: shape (max stages, *layouts.shape), zero beyond a layout's
    own stages."""
    found, index = layouts.unique()
    table = np.zeros((max(layout.pp_size for layout in found), len(found)))
    for i, layout in enumerate(found):
        table[: layout.pp_size, i] = of(layout)
    return np.asarray(table[:, index])


def on_last_stage(layouts: Layouts, of: Callable[[Layout], float]) -> Floats:
    """Return `of` a layout's last stage, zero elsewhere: shape (max stages, *layouts.shape)."""

    def stages(layout: Layout) -> tuple[float, ...]:
        return (*(0.0,) * (layout.pp_size - 1), of(replace(layout, pp_size=1)))

    return by_stage(layouts, stages)


def kv_budget_bytes(
    model: Model, platform: Platform, deployments: Deployments, draft: Model | None = None
) -> Floats:
    """Return the bytes left for caches on a rank of each stage: shape (stages, *shape); negative
    if short. `model` in its serving dtype; `draft` is loaded on the last stage."""
    layouts, loader = deployments.layouts, platform.loader
    weights = by_stage(layouts, lambda layout: loaded_stage_bytes(loader, model, layout))
    if draft is not None:
        weights = weights + on_last_stage(
            layouts, lambda layout: loaded_stage_bytes(loader, draft, layout)[0]
        )
    load = Load(
        weight_bytes=weights,
        forward_bytes=forward_bytes(model, deployments),
        logits=logits(model, deployments),
        ranks=layouts.stage_gpus * layouts.pp_size,
    )
    left = platform.startup.kv_budget_bytes(
        load,
        memory_bytes=platform.gpu.visible_memory_bytes,
        fraction=deployments.gpu_memory_utilization,
        peer_access=platform.gpu.interconnect.topology != "pcie",
    )
    return left - platform.gpu.cache_shortfall_bytes


def sequence_bytes(
    model: Model,
    context_tokens: float | Floats,
    layouts: Layouts,
    kv_dtype: str,
    draft: Model | None = None,
) -> Floats:
    """Return the cache bytes of one sequence on a rank of each stage: shape (stages, *shape). A
    `draft` has its caches on the last stage."""
    if draft is not None:
        own = sequence_bytes(model, context_tokens, layouts, kv_dtype)
        flat = replace(layouts, pp_size=np.ones(layouts.shape))
        drafts = sequence_bytes(draft, context_tokens, flat, kv_dtype)[0]
        last = np.arange(len(own)).reshape(-1, *(1,) * len(layouts.shape)) == layouts.pp_size - 1
        return own + np.where(last, drafts, 0.0)
    if np.ndim(context_tokens) == 0:
        return by_stage(
            layouts, lambda layout: rank_shards(model, layout).cache_bytes(context_tokens, kv_dtype)
        )
    found, index = layouts.unique()
    context = np.broadcast_to(np.asarray(context_tokens, np.float64), layouts.shape)
    out = np.zeros((max(layout.pp_size for layout in found), *layouts.shape))
    for i, layout in enumerate(found):
        own = index == i
        out[: layout.pp_size, own] = rank_shards(model, layout).cache_bytes(context[own], kv_dtype)
    return out


def shortfall_bytes(budget: Floats, sequence: Floats) -> Floats:
    """Return the bytes missing on a GPU of the tightest stage for one sequence; at most 0 if it
    fits."""
    return np.asarray((sequence - budget).max(axis=0))


def sequences_held(budget: Floats, sequence: Floats) -> Floats:
    """Return the number of sequences (not rounded) that fit on the tightest stage."""
    held = np.divide(
        np.maximum(budget, 0.0), sequence, out=np.full(budget.shape, np.inf), where=sequence > 0
    )
    return np.asarray(held.min(axis=0))


def kv_capacity_tokens(
    budget: Floats, sequence: Floats, context_tokens: float | Floats, layouts: Layouts
) -> Floats:
    """Return the token capacity of a replica, for sequences of `context_tokens` each.

    The length matters for layers with a window or a state. Each attention rank holds its own
    sequences.
    """
    held = sequences_held(budget, sequence) * np.asarray(context_tokens)
    return np.asarray(np.floor(held * layouts.attention_dp))


def largest_context(model: Model, budget: Floats, layout: Layout, kv_dtype: str) -> int:
    """Return the longest single sequence that fits in `budget` (bytes by stage), in tokens; at
    most the model's context."""
    rank = rank_shards(model, layout)
    low, high = 0, model.max_context
    if np.all(rank.cache_bytes(float(high), kv_dtype) <= budget):
        return high
    while high - low > 1:  # cache size grows with the context: bisect
        middle = (low + high) // 2
        fits = bool(np.all(rank.cache_bytes(float(middle), kv_dtype) <= budget))
        low, high = (middle, high) if fits else (low, middle)
    return low


class MemoryPlan(msgspec.Struct, frozen=True):
    """Memory use of a rank of the tightest stage, in bytes, and the resulting capacity."""

    memory_bytes: float  #: that a program sees
    budget_bytes: float  #: memory x gpu_memory_utilization
    weight_bytes: float  #: of the fullest rank, as loaded
    activation_bytes: float  #: what the engine's profiling run takes
    engine_bytes: float  #: what else the engine counts: context, communication, graphs
    kv_budget_bytes: float  #: negative if not even the rest fits
    kv_bytes_per_sequence: float
    kv_capacity_tokens: int  #: of the replica
    largest_batch: int  #: sequences of the context asked, of the replica
    largest_context: int  #: of a single sequence
    shortfall_bytes: float  #: what a GPU lacks to hold one sequence; 0 if it fits

    @property
    def fits(self) -> bool:
        """Whether one sequence of the longest length fits."""
        return self.shortfall_bytes == 0.0


def fits(model: Model, gpu: Gpu, deployment: Deployment, context_tokens: float) -> bool:
    """Return whether a sequence of `context_tokens` fits on one replica, without computing a
    plan."""
    stored = stored_in(model, deployment.dtypes.weight)
    one = Deployments.of([deployment])
    draft = draft_of(stored, deployment)
    budget = kv_budget_bytes(stored, Platform.of(gpu, deployment), one, draft)
    kv_dtype = kv_dtype_of(stored, deployment.dtypes)
    sequence = sequence_bytes(stored, context_tokens, one.layouts, kv_dtype, draft)
    return bool(shortfall_bytes(budget, sequence)[0] <= 0)


def longest_held(
    model: Model,
    platform: Platform,
    deployments: Deployments,
    lengths: Sequence[int],
    kv_dtype: str,
    draft: Model | None = None,
) -> NDArray[np.float64]:
    """Return the largest of `lengths` (tokens) of which one sequence fits on each deployment; else
    the smallest.

    Returns an array of the deployments' shape.
    """
    budget = kv_budget_bytes(model, platform, deployments, draft)
    longest = np.full(deployments.shape, float(min(lengths)))
    for tokens in sorted(lengths):
        sequence = sequence_bytes(model, float(tokens), deployments.layouts, kv_dtype, draft)
        longest = np.where(shortfall_bytes(budget, sequence) <= 0, float(tokens), longest)
    return longest


def plan(model: Model, gpu: Gpu, deployment: Deployment, context_tokens: float) -> MemoryPlan:
    """Return the memory of one replica of `deployment` for sequences of `context_tokens` (isl +
    osl).

    `model` may have another dtype: the deployment's dtypes are used.
    """
    stored = stored_in(model, deployment.dtypes.weight)
    kv_dtype = kv_dtype_of(stored, deployment.dtypes)
    platform, one = Platform.of(gpu, deployment), Deployments.of([deployment])
    draft = draft_of(stored, deployment)
    budget = kv_budget_bytes(stored, platform, one, draft)
    sequence = sequence_bytes(stored, context_tokens, one.layouts, kv_dtype, draft)
    tightest = int((sequence - budget)[:, 0].argmax())
    held = sequences_held(budget, sequence) * deployment.layout.attention_dp
    weights = list(loaded_stage_bytes(platform.loader, stored, _one(deployment.layout)))
    if draft is not None:
        flat = replace(deployment.layout, pp_size=1, replicas=1)
        weights[-1] += loaded_stage_bytes(platform.loader, draft, flat)[0]
    usable = gpu.visible_memory_bytes * deployment.limits.gpu_memory_utilization
    startup = platform.startup
    profiled = 0.0
    if startup.share != "free_before_load":
        sampler = startup.sampler_bytes_per_logit.value * logits(stored, one)[0]
        profiled = float(max(forward_bytes(stored, one)[0], sampler))
    left = float(budget[tightest, 0])
    return MemoryPlan(
        memory_bytes=gpu.visible_memory_bytes,
        budget_bytes=usable,
        weight_bytes=max(weights),
        activation_bytes=profiled,
        engine_bytes=max(usable - left - weights[tightest] - profiled, 0.0),
        kv_budget_bytes=left,
        kv_bytes_per_sequence=float(sequence[tightest, 0]),
        kv_capacity_tokens=int(
            kv_capacity_tokens(budget, sequence, context_tokens, one.layouts)[0]
        ),
        largest_batch=int(held[0]),
        largest_context=largest_context(stored, budget[:, 0], deployment.layout, kv_dtype),
        shortfall_bytes=max(float(shortfall_bytes(budget, sequence)[0]), 0.0),
    )


def _one(layout: Layout) -> Layout:
    return replace(layout, replicas=1)


def require_fit(
    model: Model, gpu: Gpu, deployment: Deployment, context_tokens: float
) -> MemoryPlan:
    """Return the memory plan of a deployment with room for at least one sequence.

    Raises DoesNotFitError naming the missing GB and the smallest TP or dtype that fits.
    """
    found = plan(model, gpu, deployment, context_tokens)
    if found.fits:
        return found
    p, dtype = found, stored_in(model, deployment.dtypes.weight).checkpoint_dtype
    what = "weights" if p.kv_budget_bytes < 0 else f"KV cache for {context_tokens:,.0f} tokens"
    engine_gb = (p.activation_bytes + p.engine_bytes) / GB
    raise DoesNotFitError(
        f"{model.id} in {dtype} at {deployment.layout.name} does not fit on "
        f"{gpu.name}: no "
        f"room for the {what}, {p.shortfall_bytes / GB:.1f} GB per GPU short of the "
        f"{p.budget_bytes / GB:.1f} GB usable (weights {p.weight_bytes / GB:.1f}, activations and "
        f"engine {engine_gb:.1f}, KV cache {p.kv_bytes_per_sequence / GB:.1f}); "
        f"{_what_fits(model, gpu, deployment, context_tokens)}"
    )


def smallest_fitting_tp(
    model: Model, gpu: Gpu, deployment: Deployment, context_tokens: float
) -> int | None:
    """Return the smallest TP within a node that the model allows and that has room for one
    sequence."""
    stored = stored_in(model, deployment.dtypes.weight)
    whole = deployment.layout.expert_parallel
    loader = Platform.of(gpu, deployment).loader
    for tp in allowed_tp(stored, gpu.node_gpus, expert_parallel=whole, refusal=loader):
        wider = deployment.with_layout(tp_size=tp, ep_size=tp if whole else 1)
        if fits(model, gpu, wider, context_tokens):
            return tp
    return None


def _what_fits(model: Model, gpu: Gpu, deployment: Deployment, context_tokens: float) -> str:
    options = []
    dtype = stored_in(model, deployment.dtypes.weight).checkpoint_dtype
    tp = smallest_fitting_tp(model, gpu, deployment, context_tokens)
    if tp is not None:
        options.append(f"TP={tp} in {dtype}")
    if (
        gpu.has_fp8_cache
        and plan(model, gpu, deployment.with_dtypes(kv="fp8"), context_tokens).fits
    ):
        options.append("an fp8 KV cache")
    for narrower in _NARROWER:
        if plan(model, gpu, deployment.with_dtypes(weight=narrower), context_tokens).fits:
            options.append(f"{narrower} at {deployment.layout.name}")
            break
    if options:
        return f"what fits: {' or '.join(options)}"
    return f"nothing fits on one node of {gpu.node_gpus}: use GPUs with more memory, or PP"


class LargestModel(msgspec.Struct, frozen=True):
    """The largest model that fits on one GPU in one dtype."""

    gpu: str
    dtype: str
    max_parameters: float  #: whose weights alone fill what is left, all in this dtype
    model: str  #: the largest given model that fits with one sequence; "" for none
    parameters: int
    weight_bytes: float


def largest_models(
    gpus: Iterable[Gpu],
    models: Iterable[Model],
    dtypes: Iterable[str] = ("bf16", "fp8", "fp4"),
    context_tokens: float = 8192,
    gpu_memory_utilization: float = 0.9,
) -> list[LargestModel]:
    """Return a row for each GPU and dtype: the largest of `models` that fits on one such GPU."""
    known = sorted(models, key=lambda model: model.parameters(), reverse=True)
    wanted = tuple(dtypes)
    return [
        _largest_model(gpu, known, dtype, context_tokens, gpu_memory_utilization)
        for gpu in gpus
        for dtype in wanted
    ]


@lru_cache(maxsize=1024)
def _whole_bytes(model: Model, dtype: str) -> float:
    return stored_in(model, dtype).weight_bytes


def _largest_model(
    gpu: Gpu, known: list[Model], dtype: str, context_tokens: float, utilization: float
) -> LargestModel:
    empty = Load(0.0, 0.0, 0.0)
    left = float(
        Platform(gpu).startup.kv_budget_bytes(
            empty, memory_bytes=gpu.visible_memory_bytes, fraction=utilization
        )
    )
    usable = gpu.visible_memory_bytes * utilization
    per_weight = float(usual_format(dtype).bytes_of(4096, 4096)) / 4096**2
    name, parameters, weights = "", 0, 0.0
    for model in known:
        deployment = Deployment(
            model.id,
            gpu.id,
            dtypes=Dtypes(weight=dtype),
            limits=EngineLimits(gpu_memory_utilization=utilization),
        )
        # weights alone exclude most models
        held_whole = _whole_bytes(model, dtype)
        if held_whole <= usable and fits(model, gpu, deployment, context_tokens):
            held = plan(model, gpu, deployment, context_tokens)
            name, parameters, weights = model.id, model.parameters(), held.weight_bytes
            break
    return LargestModel(gpu.id, dtype, max(left, 0.0) / per_weight, name, parameters, weights)
