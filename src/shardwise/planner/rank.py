"""Rank candidates: performance, bottleneck, and why each one lost to the one above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.evidence.record import Evidence, Interval
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.knowledge import Unseen
from shardwise.planner import ties
from shardwise.planner.candidates import Option
from shardwise.planner.fullness import matrix_share
from shardwise.planner.operating_point import Loaded
from shardwise.planner.question import Question
from shardwise.workload.workload import Workload, spread_of

_TIE: Final = 0.005  #: objectives within 0.5 % are told apart by E2E latency
#: Why the second is not the first, if its objective does not show it.
_WHY: Final = {
    "measured": ": less measured support",
    "replicas": ": a tie, fewer replicas",
    "experts": ": a tie, whole experts",
    "ttft": ": a tie, higher TTFT",
}


class Check(msgspec.Struct, frozen=True):
    """One SLO: `over_pct` is the excess of the predicted value over its bound (negative: below);
    `certain` if the whole 80 % interval meets it."""

    metric: str
    bound_s: float
    predicted_s: float
    over_pct: float
    certain: bool


class Candidate(msgspec.Struct, frozen=True):
    """A deployment that runs and sustains the load. `evidence` describes its fullest replica."""

    evidence: Evidence
    gpus_paid: int
    node_output_tok_s: Interval
    cost: Interval  #: of `cost_metric`, all GPUs of the node paid for
    cost_metric: str
    checks: tuple[Check, ...]
    binding: str  #: the largest part of E2E latency
    matrix_share: float  #: of the GPU's dense matrix rate
    kv_limited: bool
    capacity_left: float  #: share of replicas that run on when one GPU, so one replica, is lost
    unseen: tuple[Unseen, ...] = ()  #: what of it no row behind the predictions has
    far: str = ""  #: why nothing near it was measured, in words; "" where something was
    behind: str = ""  #: why it ranks below the one above

    @property
    def deployment(self) -> Deployment:
        """The predicted deployment."""
        return self.evidence.deployment

    @property
    def meets(self) -> bool:
        """Whether the prediction meets every bound."""
        return all(check.over_pct <= 0 for check in self.checks)

    @property
    def worst(self) -> Check:
        """The bound that is exceeded most, or met by the smallest margin."""
        return max(self.checks, key=lambda check: check.over_pct)

    @property
    def name(self) -> str:
        """Layout and weight dtype, for a table."""
        d = self.deployment
        return f"{Option(d.layout, f'in {d.dtypes.weight}')}"

    def mean(self, name: str) -> float:
        """Return the value that objective `name` minimises, above 0: seconds of E2E latency, or
        cost per token."""
        if name == "latency":
            return self.evidence.metrics["e2e_latency_s"].value
        return self.cost.value

    def objective(self, name: str) -> float:
        """Return the value that objective `name` minimises, at the pessimistic end of its
        interval, so that an unmeasured candidate must be better by more than its uncertainty."""
        if name == "latency":
            return self.evidence.metrics["e2e_latency_s"].hi
        return self.cost.hi if name == "cost" else -self.node_output_tok_s.lo


def candidates(question: Question, subject: Subject, loaded: Sequence[Loaded]) -> list[Candidate]:
    """Return candidates of one weight dtype, with intervals."""
    demand, arch = question.demand, question.arch
    deployments = [
        Deployment(
            model=arch.id,
            gpu=question.node.gpu.id,
            layout=x.option.layout,
            limits=x.limits,
            dtypes=Dtypes(subject.weight_dtype, subject.kv_dtype),
            engine=question.engine,
            engine_version=question.engine_version,
            speculation=question.speculation,
        )
        for x in loaded
    ]
    workloads = [
        Workload(
            demand.isl,
            demand.osl,
            x.concurrency,
            request_rate=demand.request_rate,
            cached_tokens=demand.cached_tokens,
            length_spread=spread_of(demand.length_cv),
        )
        for x in loaded
    ]
    found = predict(subject, deployments, workloads)
    known, asked = subject.calibrated.profile.knowledge, subject.asked
    made = []
    for x, evidence in zip(loaded, found, strict=True):
        layout = x.option.layout
        candidate = _candidate(question, subject, x, evidence)
        unseen, far = known.unseen(asked, layout), known.far(asked, layout)
        made.append(replace(candidate, unseen=unseen, far=far))
    return made


def _candidate(
    question: Question, subject: Subject, loaded: Loaded, evidence: Evidence
) -> Candidate:
    node = _node_throughput(question, loaded, evidence.metrics["output_tok_s"])
    price = question.usd_per_gpu_hour
    hourly = question.node.gpus * (1.0 if price is None else price)  # USD or GPU-hours
    cost = Interval(
        metrics.usd_per_million_tok(hourly, node.value),
        metrics.usd_per_million_tok(hourly, node.hi),
        metrics.usd_per_million_tok(hourly, node.lo),
    )
    return Candidate(
        evidence=evidence,
        gpus_paid=question.node.gpus,
        node_output_tok_s=node,
        cost=cost,
        cost_metric=(metrics.GPU_HOURS if price is None else metrics.COST).name,
        checks=_checks(question, evidence),
        binding=max(evidence.breakdown, key=lambda part: evidence.breakdown[part]),
        matrix_share=matrix_share(subject, evidence),
        kv_limited=loaded.kv_limited,
        capacity_left=(loaded.option.layout.replicas - 1) / loaded.option.layout.replicas,
    )


def _node_throughput(question: Question, loaded: Loaded, one: Interval) -> Interval:
    """Return the node's output; at a request rate, at most the demand."""
    value = loaded.node_output_tok_s
    most = loaded.capacity_tok_s
    if question.demand.request_rate is not None:
        return Interval(value, min(value, most * one.lo / one.value), value)
    return Interval(value, value * one.lo / one.value, value * one.hi / one.value)


def _checks(question: Question, evidence: Evidence) -> tuple[Check, ...]:
    return tuple(
        Check(
            metric,
            bound,
            evidence.metrics[metric].value,
            metrics.percent_change(bound, evidence.metrics[metric].value),
            evidence.metrics[metric].hi <= bound,
        )
        for metric, bound in question.slo.bounds().items()
    )


def rank(question: Question, found: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Return candidates that meet the SLO, best first, and those that miss it, nearest first.

    The first is `ties.first`; the others follow by the pessimistic end of the objective's interval.
    """
    meeting = sorted(
        (c for c in found if c.meets),
        key=lambda c: (c.objective(question.objective), _e2e(c)),
    )
    for i in range(len(meeting)):
        # within a tie the faster one moves up; values stay ordered to within the tie
        j = i
        while (
            j
            and _tied(question, meeting[j - 1], meeting[j])
            and (_e2e(meeting[j]) < _e2e(meeting[j - 1]))
        ):
            meeting[j - 1], meeting[j] = meeting[j], meeting[j - 1]
            j -= 1
    if meeting:
        best = ties.first(question, meeting)
        meeting.remove(best)
        meeting.insert(0, best)
    ranked = [
        replace(c, behind=_behind(question, meeting[i - 1], c, i == 1) if i else "")
        for i, c in enumerate(meeting)
    ]
    missing = sorted((c for c in found if not c.meets), key=lambda c: c.worst.over_pct)
    return ranked, [replace(c, behind=missed(c)) for c in missing]


def missed(candidate: Candidate) -> str:
    """Return `misses TPOT by 12 %` for each missed SLO."""
    return "; ".join(
        f"misses {metrics.ALL[c.metric].label} by {c.over_pct:,.1f} %"
        for c in candidate.checks
        if c.over_pct > 0
    )


def _e2e(candidate: Candidate) -> float:
    return candidate.evidence.metrics["e2e_latency_s"].value


def _tied(question: Question, a: Candidate, b: Candidate) -> bool:
    x, y = a.objective(question.objective), b.objective(question.objective)
    return abs(x - y) <= _TIE * abs(x)


def _behind(question: Question, above: Candidate, below: Candidate, second: bool) -> str:
    slower = metrics.percent_change(_e2e(above), _e2e(below))
    name = {"cost": "cost", "latency": "E2E latency", "throughput": "throughput"}
    why = _WHY.get(ties.reason(question, above, below), "") if second else ""
    if _tied(question, above, below):
        return f"same {name[question.objective]}, {slower:+z.1f} % E2E latency{why}"
    a, b = (abs(c.objective(question.objective)) for c in (above, below))
    return f"{metrics.percent_change(a, b):+z.1f} % {name[question.objective]}{why}"
