"""Write a plan's recommendation as sentences."""

from __future__ import annotations

from typing import Final

from shardwise import metrics
from shardwise.architecture.bundled import published_checkpoint
from shardwise.perfmodel.knowledge import WORDS
from shardwise.planner.explanation import (
    CacheGain,
    Explanation,
    IdleGpus,
    NarrowerWeights,
    RunnerUp,
    explain,
)
from shardwise.planner.plan import Plan
from shardwise.planner.rank import Candidate
from shardwise.planner.ties import criteria
from shardwise.reports.numbers import brief, number

BINDING: Final = {
    "weights": "reading weights",
    "kv": "reading the KV cache",
    "compute": "matrix multiplication",
    "communication": "links between GPUs",
    "overhead": "engine overhead",
    "queueing": "waiting for a slot",
}
#: Components of time, as the cause of a loss.
_LOST: Final = {**BINDING, "communication": "communication between GPUs"}


def recommendation(plan: Plan) -> str:
    """Write what to deploy, its performance and cost, the reasons, and what to measure."""
    found = explain(plan)
    lines = [_deploy(plan, found), *_narrowed(plan), _limits(plan, found)]
    best = plan.best
    if found.idle is not None:
        lines += [_idle(plan, found.idle)]
    lines += [
        f"SLO {metrics.ALL[c.metric].label} {c.bound_s * 1e3:g} ms: met by the predicted "
        f"{c.predicted_s * 1e3:.4g} ms, "
        f"{'and by its whole 80 % interval' if c.certain else 'but not by its whole interval'}."
        for c in best.checks
    ]
    if found.runner_up is not None:
        lines += [_runner_up(plan, found.runner_up)]
    if found.cache is not None:
        lines += [_cache(plan, found.cache)]
    if found.narrower is not None:
        lines += [_narrower(plan, found.narrower)]
    return "\n".join([*lines, _ground(found)])


def _deploy(plan: Plan, found: Explanation) -> str:
    best, q = plan.best, plan.question
    m, d = best.evidence.metrics, best.deployment
    cost = metrics.ALL[best.cost_metric]
    idle = q.node.gpus - d.gpus
    return (
        f"Deploy {q.arch.id} as {best.name} on {q.node.name} "
        f"({d.engine}, KV cache {d.dtypes.kv})"
        f"{f', although nothing similar was measured ({found.far})' if found.far else ''}: "
        f"predicted "
        f"TTFT {brief(m['ttft_s'], 's')}, TPOT {brief(m['tpot_s'], 's')}, "
        f"E2E latency {brief(m['e2e_latency_s'], 's')} at "
        f"{best.evidence.workload.concurrency} in flight per replica; the node's throughput is "
        f"{brief(best.node_output_tok_s, 'output tok/s')} at "
        f"{brief(best.cost, cost.unit)}, paying for {_paid(best.gpus_paid, idle)} "
        "(±: 80 % interval)."
    )


def _narrowed(plan: Plan) -> list[str]:
    if not plan.too_wide:
        return []
    dtype = plan.best.deployment.dtypes.weight
    published = published_checkpoint(plan.question.arch.id, dtype)
    return [
        f"Nothing fits in {' or '.join(plan.too_wide)}, so the plan uses {published} ({dtype}, "
        f"multiplied in 16 bits). Check the quality of its answers."
    ]


def _paid(gpus: int, idle: int) -> str:
    whole = f"all {gpus} GPUs" if gpus > 1 else "the GPU"
    return f"{whole} ({idle} {'is' if idle == 1 else 'are'} idle)" if idle else whole


def _limits(plan: Plan, found: Explanation) -> str:
    best, replicas = plan.best, plan.best.deployment.replicas
    return (
        f"If one GPU fails, {replicas - 1}/{replicas} of the capacity remains. "
        f"The largest "
        f"part of E2E latency is {BINDING[best.binding]} "
        f"({100 * found.binding_share:.0f} %)"
        f"{'; the KV cache limits the batch' if best.kv_limited else ''}."
    )


def _idle(plan: Plan, idle: IdleGpus) -> str:
    """Say why GPUs are left over, and what a layout that uses all of them would give."""
    gpus, reason = plan.question.node.gpus, idle.tensor_parallel.partition(";")[0]
    because = f" TP{gpus} is impossible: {reason}." if reason else ""
    count = f"{idle.count} GPU{' is' if idle.count == 1 else 's are'} idle."
    if idle.full is None:
        return f"{count}{because} No layout that uses all {gpus} GPUs fits."
    return (
        f"{count}{because} The best layout that uses all {gpus} GPUs is {idle.full.name}: "
        f"{idle.apart_pct:+z.1f} % {_objective(plan)}."
    )


def _objective(plan: Plan) -> str:
    return "E2E latency" if criteria(plan.question)[-1] == "latency" else "cost"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _runner_up(plan: Plan, other: RunnerUp) -> str:
    """Say why the second candidate is not the first, and what to measure to decide."""
    size = f"{other.apart_pct:+z.1f} % {_objective(plan)}"
    cause = f"of which {other.part_pct:z.0f} points are {_LOST[other.part]}"
    doubt = f"the uncertainty of the difference is {other.doubt_pct:.0f} %"
    why = {
        "better": f"{size}, {cause}; {doubt}" if other.apart_pct > 0 else f"{size}; {doubt}",
        "measured": f"{size}, but it has less measured support, and {doubt}",
        "replicas": f"{size}, a tie because {doubt}; it has fewer replicas",
        "experts": f"{size}, a tie since {doubt}; measured rows are no faster with whole experts",
        "ttft": f"{size}, a tie because {doubt}; its TTFT is {_ttft(other.candidate)} instead of "
        f"{_ttft(plan.best)}",
    }[other.reason]
    demand = plan.question.demand
    load = f"{demand.isl} input and {demand.osl} output tokens"
    if demand.concurrency is not None:
        load += f" at {demand.concurrency} in flight"
    elif demand.request_rate is not None:
        load += f" at {demand.request_rate:g} requests/s"
    label, first, second = _values(plan, other)
    return (
        f"Runner-up: {other.candidate.name}, {why}. To decide, measure {label} of both with "
        f"{load} (predicted: {first} and {second})."
    )


def _ttft(candidate: Candidate) -> str:
    value = candidate.evidence.metrics["ttft_s"].value
    return f"{number(value)} s" if value >= 1.0 else f"{number(1e3 * value)} ms"


def _values(plan: Plan, other: RunnerUp) -> tuple[str, str, str]:
    best, second = plan.best, other.candidate
    if other.metric == "output_tok_s":
        values = [number(c.node_output_tok_s.value) for c in (best, second)]
        return ("the node's output tok/s", values[0], values[1])
    e2e = [c.evidence.metrics["e2e_latency_s"].value for c in (best, second)]
    return ("E2E latency", f"{number(e2e[0])} s", f"{number(e2e[1])} s")


def _narrower(plan: Plan, other: NarrowerWeights) -> str:
    published = published_checkpoint(plan.question.arch.id, other.dtype)
    return (
        f"With {other.dtype} weights ({published}), each replica's KV cache would hold "
        f"{other.tokens:,} tokens instead of {other.now_tokens:,}. To plan with them, use --dtype "
        f"{other.dtype}, if the quality of their answers is sufficient."
    )


def _cache(plan: Plan, gain: CacheGain) -> str:
    return (
        f"KV cache: {gain.copied.layout.name} holds {gain.copied_tokens:,} tokens, "
        f"{gain.copied_tokens / max(gain.cut_tokens, 1):.1f} times the {gain.cut_tokens:,} of "
        f"{gain.cut.layout.name}, since TP keeps the whole latent cache on every GPU. "
        f"{_room(plan, gain)} With one request in flight, the TPOT of {gain.copied.layout.name} is "
        f"{1e3 * gain.copied_tpot_s:.3g} ms and that of {gain.cut.layout.name} "
        f"{1e3 * gain.cut_tpot_s:.3g} ms.{_shared(gain)}"
    )


def _room(plan: Plan, gain: CacheGain) -> str:
    """What the cut cache holds of the requests asked for."""
    held, asked = f"{gain.cut_requests:,}", plan.question.demand.concurrency
    name = gain.cut.layout.name
    if asked is None:
        return f"{name} has room for {held} such requests."
    if gain.cut_requests >= asked:
        return f"{name} has room for {held} such requests, so the {asked:,} in flight all decode."
    return f"{name} has room for {held} of the {asked:,} such requests in flight; the others wait."


def _shared(gain: CacheGain) -> str:
    if gain.shared is None:
        return ""
    return (
        f" {gain.shared.layout.name} shards the cache over tokens: {gain.shared_tokens:,} tokens "
        f"and "
        f"{1e3 * gain.shared_tpot_s:.3g} ms, both predicted without measurements."
    )


def _ground(found: Explanation) -> str:
    if not found.unseen:
        return "Measured rows: this model, GPU, engine and layout."
    words = ", ".join(text for name, text in WORDS.items() if name in found.unseen)
    near = (
        f"this model was measured on {found.nearest}" if found.nearest else "no row of this model"
    )
    return f"Measured rows: {words}; {near}."
