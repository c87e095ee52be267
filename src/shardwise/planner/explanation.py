"""Explain a plan's first candidate: its bottleneck, its margin over the runner-up, a measurement
that would decide, and, for models with a latent cache, gain and cost of data-parallel attention."""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.mixers import Mla
from shardwise.layout.deployment import Deployment, Layout
from shardwise.perfmodel.estimate import predict
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.planner import ties
from shardwise.planner.plan import Plan
from shardwise.planner.question import Question
from shardwise.planner.rank import Candidate
from shardwise.workload.workload import Workload


class RunnerUp(msgspec.Struct, frozen=True):
    """The second candidate of a plan, compared with the first.

    Attributes:
        reason: Why the first ranks before it.
        metric: Metric of the comparison: "e2e_latency_s", or "output_tok_s" of the node.
        apart_pct: Percent by which its predicted objective is worse; negative if better.
        doubt_pct: Half-width of the 80 % interval of that difference.
        part: Component of time with the largest loss, a key of `Evidence.breakdown`.
        part_pct: Loss in that component, in percent of the first's objective.
    """

    candidate: Candidate
    reason: ties.Reason
    metric: str
    apart_pct: float
    doubt_pct: float
    part: str
    part_pct: float


class CacheGain(msgspec.Struct, frozen=True):
    """Data-parallel attention compared with TP on the same number of GPUs, for a model whose
    latent cache TP does not shard: cache tokens per replica, and TPOT of a single request.
    `shared` is the same TP with the cache's tokens shared by as many ranks as can; `cut_requests`
    of this length are what `cut` holds at once."""

    copied: Deployment
    cut: Deployment
    copied_tokens: int
    cut_tokens: int
    cut_requests: int
    copied_tpot_s: float
    cut_tpot_s: float
    shared: Deployment | None = None
    shared_tokens: int = 0
    shared_tpot_s: float = 0.0


class NarrowerWeights(msgspec.Struct, frozen=True):
    """What the published checkpoint in `dtype` would leave for the cache of the first's layout,
    which is limited by it: tokens of a replica."""

    dtype: str
    tokens: int
    now_tokens: int


class IdleGpus(msgspec.Struct, frozen=True):
    """Why the first candidate leaves GPUs unused.

    Attributes:
        count: Unused GPUs.
        tensor_parallel: Why TP over all GPUs is impossible; "" if it is possible.
        full: The best candidate that uses all GPUs; None if there is none.
        apart_pct: Percent by which the predicted objective of `full` is worse; negative if better.
    """

    count: int
    tensor_parallel: str
    full: Candidate | None
    apart_pct: float


class Explanation(msgspec.Struct, frozen=True):
    """Reasons for the first candidate of a plan.

    Attributes:
        binding_share: Share of the largest component in E2E latency.
        far: Why nothing similar was measured; "" if something was.
        unseen: Aspects that no row has, as `knowledge.Unseen`.
        nearest: The layouts in which this model was measured, as text; "" for none.
    """

    binding_share: float
    far: str
    unseen: tuple[str, ...]
    nearest: str
    runner_up: RunnerUp | None
    cache: CacheGain | None
    narrower: NarrowerWeights | None
    idle: IdleGpus | None


def explain(plan: Plan) -> Explanation:
    """Explain the first candidate of a plan, which must have one."""
    best, question = plan.best, plan.question
    subject = question.subject(best.deployment.dtypes.weight)
    breakdown = best.evidence.breakdown
    return Explanation(
        binding_share=breakdown[best.binding] / max(sum(breakdown.values()), 1e-12),
        far=best.far,
        unseen=best.unseen,
        nearest=subject.calibrated.profile.knowledge.nearest(subject.asked),
        runner_up=_runner_up(question, plan.ranked) if len(plan.ranked) > 1 else None,
        cache=_cache_gain(plan),
        narrower=_narrower(plan),
        idle=_idle(plan),
    )


def _idle(plan: Plan) -> IdleGpus | None:
    best, gpus = plan.best, plan.question.node.gpus
    if best.deployment.gpus == gpus:
        return None
    whole = Layout(tp_size=gpus)
    reasons = [r.reason for r in plan.rejected if r.option.layout == whole]
    full = next((c for c in plan.ranked if c.deployment.gpus == gpus), None)
    criterion = ties.criteria(plan.question)[-1]
    apart = 0.0 if full is None else math.expm1(ties.apart(best, full, criterion))
    return IdleGpus(gpus - best.deployment.gpus, reasons[0] if reasons else "", full, 100.0 * apart)


def _narrower(plan: Plan) -> NarrowerWeights | None:
    best, question = plan.best, plan.question
    dtype = question.last_dtype()
    if dtype is None or not best.kv_limited:
        return None
    now, then = (
        memory_plan(question.arch, question.node.gpu, d, question.context).kv_capacity_tokens
        for d in (best.deployment, best.deployment.with_dtypes(weight=dtype))
    )
    return NarrowerWeights(dtype, then, now) if then > now else None


def _runner_up(question: Question, ranked: tuple[Candidate, ...]) -> RunnerUp:
    best, second = ranked[:2]
    criterion = ties.criteria(question)[-1]
    latency = criterion == "latency"
    lost = {
        part: _per_request(second, part, latency) - _per_request(best, part, latency)
        for part in best.evidence.breakdown
    }
    part = max(lost, key=lambda name: lost[name])
    whole = sum(_per_request(best, name, latency) for name in best.evidence.breakdown)
    return RunnerUp(
        candidate=second,
        reason=ties.reason(question, best, second),
        metric="e2e_latency_s" if latency else "output_tok_s",
        apart_pct=100.0 * math.expm1(ties.apart(best, second, criterion)),
        doubt_pct=100.0 * math.expm1(ties.doubt(best, second, criterion)),
        part=part,
        part_pct=100.0 * lost[part] / whole,
    )


def _per_request(candidate: Candidate, part: str, latency: bool) -> float:
    """Return the seconds of a component per request: as the client waits, or of the node's time."""
    seconds = candidate.evidence.breakdown[part]
    if latency:
        return seconds
    deployment = candidate.deployment
    return seconds / (candidate.evidence.workload.concurrency * deployment.replicas)


def _cache_gain(plan: Plan) -> CacheGain | None:
    best, question = plan.best, plan.question
    stored = stored_in(question.arch, best.deployment.dtypes.weight)
    if not any(isinstance(group.mixer, Mla) for group in stored.groups):
        return None
    same = [
        c.deployment
        for c in (*plan.ranked, *plan.missing)
        if c.deployment.dtypes == best.deployment.dtypes and c.deployment.pp_size == 1
    ]
    copied = max(same, key=lambda d: (d.layout.attention_dp, -d.tp_size), default=None)
    if copied is None or copied.layout.attention_dp == 1:
        return None
    width = copied.layout.replica_gpus
    wide = [d for d in same if d.layout.attention_dp == 1 and d.layout.replica_gpus == width]
    cut = min(wide, key=lambda d: (d.layout.dcp_size, d.layout.ep_size), default=None)
    if cut is None or cut.layout.dcp_size > 1:
        return None
    shared = max(wide, key=lambda d: (d.layout.dcp_size, -d.layout.ep_size))
    compared = [copied, cut] if shared.layout.dcp_size == 1 else [copied, cut, shared]
    gpu, context = question.node.gpu, question.context
    tokens = [memory_plan(question.arch, gpu, d, context).kv_capacity_tokens for d in compared]
    alone = Workload(question.demand.isl, question.demand.osl, 1)
    one = [replace(d, layout=replace(d.layout, replicas=1)) for d in compared]
    subject = question.subject(best.deployment.dtypes.weight)
    tpots = [e.metrics["tpot_s"].value for e in predict(subject, one, [alone] * len(one))]
    held = tokens[1] // (question.demand.isl + question.demand.osl)
    found = CacheGain(copied, cut, tokens[0], tokens[1], held, tpots[0], tpots[1])
    if len(compared) == 2:
        return found
    return replace(found, shared=shared, shared_tokens=tokens[2], shared_tpot_s=tpots[2])
