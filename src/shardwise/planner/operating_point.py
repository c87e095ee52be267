"""Evaluate each layout under the demand: one array over layouts x concurrencies per dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.engines.loading import usual_share
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import EngineLimits
from shardwise.perfmodel.estimate import Subject, sweep
from shardwise.perfmodel.loads import Offered
from shardwise.perfmodel.memory import (
    kv_budget_bytes,
    longest_held,
    sequence_bytes,
    shortfall_bytes,
)
from shardwise.perfmodel.serving import Served
from shardwise.perfmodel.work import Array
from shardwise.planner.candidates import Option, Rejected
from shardwise.planner.question import Demand, Question
from shardwise.units import GB
from shardwise.workload.workload import Workload

MAX_SEQS: Final = 1024  #: of a copy of attention
#: Concurrencies of one replica that are searched: every one to 32, then steps of about 4 %, and
#: beyond what one copy of attention takes, of about 12 %.
CONCURRENCIES: Final = np.array(
    sorted(
        {
            *range(1, 33),
            *np.geomspace(32, MAX_SEQS, 90).round().tolist(),
            *np.geomspace(MAX_SEQS, 4 * MAX_SEQS, 13).round().tolist(),
        }
    ),
    np.float64,
)
WAVES: Final = 10.0  #: requests a slot in a closed-loop run, as in load tests
_PLATEAU: Final = 0.99  #: throughput within 1 % of the best is not worth a longer queue


class Loaded(msgspec.Struct, frozen=True):
    """A layout at the concurrency at which it is scored."""

    option: Option
    concurrency: int  #: of the fullest replica
    limits: EngineLimits
    node_output_tok_s: float
    capacity_tok_s: float  #: the highest throughput of the node; node_output_tok_s if not searched
    kv_limited: bool


class _Sweep(msgspec.Struct, frozen=True):
    """Arrays of shape (layouts, concurrencies); replicas has shape (layouts, 1)."""

    replicas: Array
    concurrency: Array
    max_num_seqs: Array
    max_model_len: Array  #: the longest of `Question.longest` that memory holds
    shortfall: Array  #: bytes a GPU for one sequence of the context; <= 0 fits
    served: Served


def max_num_seqs(concurrency: Array, request_rate: bool) -> Array:
    """Return `concurrency` of an attention rank, rounded up to a multiple of 8 (where engines
    capture graphs), at most 1,024.

    At a request rate, the number in flight is Poisson distributed, so three standard deviations
    are added.
    """
    spread = 3.0 * np.sqrt(concurrency) if request_rate else 0.0
    return np.asarray(np.minimum(np.ceil((concurrency + spread) / 8.0) * 8.0, MAX_SEQS))


def limits_of(question: Question, max_num_seqs: int, max_model_len: int) -> EngineLimits:
    """Return the limits that an engine is started with: the user's, else the defaults chosen
    here."""
    chosen = replace(_usual(question), max_num_seqs=max_num_seqs, max_model_len=max_model_len)
    return question.limits.over(chosen)


def limited_deployments(question: Question, layouts: Layouts, max_num_seqs: Array) -> Deployments:
    """Deployments with the limits of `limits_of`, as arrays of the shape of `layouts`."""
    fixed, shape = _usual(question), layouts.shape
    if question.limits.max_num_seqs is not None:
        max_num_seqs = np.full(shape, float(question.limits.max_num_seqs))
    return Deployments(
        layouts,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=np.full(shape, float(fixed.max_num_batched_tokens)),
        gpu_memory_utilization=np.full(shape, fixed.gpu_memory_utilization),
    )


def _usual(question: Question) -> EngineLimits:
    """Return the limits that do not depend on the load."""
    share = usual_share(question.engine, question.node.gpu, question.engine_version)
    return question.limits.over(EngineLimits(gpu_memory_utilization=share))


def load_candidates(
    question: Question, options: Sequence[Option]
) -> tuple[list[Loaded], list[Rejected]]:
    """Evaluate options of one dtype under the demand; return also those without enough memory or
    speed."""
    if not options:
        return [], []
    swept = _sweep(question, question.subject(options[0].weight_dtype), options)
    copies = np.array([[float(o.layout.attention_dp)] for o in options])
    fits = (swept.shortfall <= 0) & (
        (question.demand.concurrency is not None) | (swept.concurrency <= MAX_SEQS * copies)
    )
    loaded: list[Loaded] = []
    rejected: list[Rejected] = []
    for i, option in enumerate(options):
        if not fits[i].any() or (question.demand.concurrency and not fits[i].all()):
            rejected.append(_too_large(question, option, float(swept.shortfall[i].min())))
        else:
            found = _choose(question, swept, i, option, fits[i])
            if isinstance(found, Loaded):
                loaded.append(found)
            else:
                rejected.append(found)
    return loaded, _told_once(rejected)


def _told_once(rejected: Sequence[Rejected]) -> list[Rejected]:
    """Without layouts that share a cache where the same one that does not is too large as well."""
    large = {r.option.layout for r in rejected if r.cause == "memory"}
    return [
        r
        for r in rejected
        if r.option.layout.dcp_size == 1
        or r.cause != "memory"
        or replace(r.option.layout, dcp_size=1) not in large
    ]


def _sweep(question: Question, subject: Subject, options: Sequence[Option]) -> _Sweep:
    demand = question.demand
    replicas = np.array([o.layout.replicas for o in options], np.float64)[:, None]
    copies = np.array([o.layout.attention_dp for o in options], np.float64)[:, None]
    if demand.concurrency is not None:
        each = demand.concurrency / replicas
        concurrency = np.concatenate([np.ceil(each), np.maximum(np.floor(each), 1.0)], axis=1)
        # one set of flags for all replicas: those of the fullest one
        fullest = np.ceil(concurrency[:, :1] / copies)
        seqs = np.repeat(max_num_seqs(fullest, request_rate=False), 2, axis=1)
    else:
        concurrency = np.repeat(CONCURRENCIES[None, :], len(options), axis=0)
        seqs = max_num_seqs(np.ceil(concurrency / copies), demand.request_rate is not None)
    shape = concurrency.shape
    one = Layouts.of(o.layout for o in options)
    sizes = (getattr(one, name) for name in Layouts.__struct_fields__)
    layouts = Layouts(*(np.broadcast_to(each[:, None], shape) for each in sizes))
    deployments = limited_deployments(question, layouts, seqs)
    arch, kv_dtype, draft = subject.arch, subject.setting.kv_dtype, subject.draft
    budget = kv_budget_bytes(arch, subject.platform, deployments, draft)

    def short(tokens: int) -> Array:
        one = sequence_bytes(arch, float(tokens), layouts, kv_dtype, draft)
        return shortfall_bytes(budget, one)

    longest = longest_held(arch, subject.platform, deployments, question.longest, kv_dtype, draft)
    shortfall = short(max(question.context, question.limits.max_model_len or 0))
    offered = offered_in_waves(concurrency, demand)
    served = sweep(subject, "closed_loop", deployments, offered)
    return _Sweep(replicas, concurrency, deployments.max_num_seqs, longest, shortfall, served)


def offered_in_waves(concurrency: Array, asked: Demand | Workload, waves: float = WAVES) -> Offered:
    """Return requests of the asked lengths at each of `concurrency`, for a run that sends `waves`
    times as many as are in flight; infinite for one without a first burst."""
    return Offered(
        concurrency,
        np.full(concurrency.shape, float(asked.isl)),
        np.full(concurrency.shape, float(asked.osl)),
        waves * concurrency,
        asked.length_cv,
        cached_tokens=float(asked.cached_tokens),
    )


def _too_large(question: Question, option: Option, shortfall: float) -> Rejected:
    gpu = question.node.gpu
    share = _usual(question).gpu_memory_utilization
    usable = gpu.visible_memory_bytes * share / GB
    reason = (
        f"{shortfall / GB:.1f} GB per GPU short of the {usable:.1f} GB usable on {gpu.name} "
        f"(weights, one sequence of {question.context:,} tokens, activations, engine)"
    )
    return Rejected(option, "memory", reason, shortfall_bytes=shortfall)


def _choose(
    question: Question, swept: _Sweep, i: int, option: Option, fits: NDArray[np.bool_]
) -> Loaded | Rejected:
    """Return the concurrency at which option `i` is scored."""
    demand, replicas = question.demand, option.layout.replicas
    each = np.where(fits, swept.served.output_tok_s[i], 0.0)
    capacity = replicas * float(each.max())
    if demand.concurrency is not None:
        least, fuller = divmod(demand.concurrency, replicas)
        # `fuller` replicas have one request more than the others
        node = fuller * each[0] + (replicas - fuller) * (each[1] if least else 0.0)
        k, capacity = 0, float(node)
    elif demand.request_rate is not None:
        wanted = demand.request_rate * demand.osl
        if capacity < wanted:
            holds = capacity / demand.osl
            reason = (
                f"sustains {holds:.3g} requests/s on the node, {demand.request_rate:g} are needed"
            )
            return Rejected(option, "overload", reason, request_rate=holds)
        # a Poisson arrival finds the mean number in flight before it (PASTA; Wolff 1982), so its
        # replica is a loop of one client more; to the nearest whole number
        found = each * (1.0 - 0.5 / swept.concurrency[i]) * replicas >= wanted
        k, node = int(np.argmax(found)) if found.any() else int(np.argmax(each)), wanted
    else:
        k = _best(question, swept.served, i, fits)
        node = replicas * float(each[k])
    return Loaded(
        option,
        int(swept.concurrency[i, k]),
        limits_of(question, int(swept.max_num_seqs[i, k]), int(swept.max_model_len[i, k])),
        float(node),
        capacity,
        bool(swept.served.kv_limited[i, k]),
    )


def _best(question: Question, served: Served, i: int, fits: NDArray[np.bool_]) -> int:
    """Return the concurrency that is best for the objective within the SLO, or misses it by the
    least."""
    excess = np.zeros(fits.shape)
    for metric, bound in question.slo.bounds().items():
        excess = np.maximum(excess, getattr(served, metric)[i] / bound - 1.0)
    excess = np.where(fits, excess, np.inf)
    meets = excess <= 0
    if not meets.any():
        return int(np.argmin(excess))
    if question.objective == "latency":
        return int(np.argmin(np.where(meets, served.e2e_latency_s[i], np.inf)))
    output = np.where(meets, served.output_tok_s[i], 0.0)
    return int(np.argmax(output >= _PLATEAU * output.max()))
