"""Run a study: predict every TP at every batch, and analyse the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.analysis.audit import Finding, audit_grid, audit_steps
from shardwise.analysis.breakeven import (
    BreakEven,
    KeptLatency,
    breakeven_tp,
    latency_keeping_batches,
)
from shardwise.analysis.cost import Node, NodeCost, node_costs
from shardwise.analysis.grid import Grid, index
from shardwise.analysis.transitions import Step, transitions
from shardwise.architecture.model import require_context
from shardwise.engines.loading import require_able, require_prefix_caching, usual_share
from shardwise.errors import DoesNotFitError, InputError
from shardwise.evidence.record import Evidence
from shardwise.hardware.node import Node as HardwareNode
from shardwise.layout.arrays import Deployments
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, FixedLimits, Layout
from shardwise.layout.rules import model_lengths, require_layout, require_length
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.intervals import LAYOUT_RHO
from shardwise.perfmodel.memory import longest_held, require_fit
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.workload.workload import TRAFFIC_CV, Mode, Workload, require_length_cv, spread_of

#: A step up must save at least this share of latency to be worthwhile.
MIN_GAIN_PCT: Final = 15.0


class Question(msgspec.Struct, frozen=True):
    """The question of a study: the TPs and batches to compare, and the requests."""

    gpus: int
    tp_sizes: tuple[int, ...]
    concurrencies: tuple[int, ...]
    isl: int
    osl: int
    mode: Mode = "closed_loop"
    requests: int = 0  #: in each run; 0: ten per slot
    limits: FixedLimits = msgspec.field(default_factory=FixedLimits)
    cached_tokens: int = 0  #: of `isl`: a beginning that all prompts share, in the prefix cache
    length_cv: float = TRAFFIC_CV  #: standard deviation of lengths over their mean


class Skipped(msgspec.Struct, frozen=True):
    """A requested TP that cannot run, with the reason."""

    tp_size: int
    reason: str


class Study(msgspec.Struct, frozen=True):
    """The evidence of a study and its analysis."""

    question: Question
    evidence: tuple[Evidence, ...]
    skipped: tuple[Skipped, ...]
    steps: tuple[Step, ...]
    kept: tuple[KeptLatency, ...]
    breakevens: tuple[BreakEven, ...]
    costs: tuple[NodeCost, ...]
    findings: tuple[Finding, ...]

    @property
    def grid(self) -> Grid:
        """Evidence by TP size and concurrency."""
        return index(self.evidence)


def deployment_of(
    subject: Subject, question: Question, layout: Layout, concurrency: int
) -> Deployment:
    """Return one replica of `layout`, with its engine started for `concurrency` requests in
    flight."""
    limits = EngineLimits(
        max_num_seqs=max(-(-concurrency // layout.attention_dp), 1),
        gpu_memory_utilization=usual_share(subject.engine, subject.gpu, subject.engine_version),
    )
    return Deployment(
        model=subject.arch.id,
        gpu=subject.gpu.id,
        layout=layout,
        limits=question.limits.over(limits),
        dtypes=Dtypes(subject.weight_dtype, subject.setting.kv_dtype),
        engine=subject.engine,
        engine_version=subject.engine_version,
        speculation=subject.speculation,
    )


def with_longest(
    subject: Subject, question: Question, deployments: Sequence[Deployment]
) -> list[Deployment]:
    """Return `deployments` with room for requests longer than the mean, if the KV cache allows
    it."""
    if question.limits.max_model_len is not None or not deployments:
        return list(deployments)
    tokens = question.isl + question.osl
    longest = longest_held(
        subject.arch,
        subject.platform,
        Deployments.of(deployments),
        (*model_lengths(tokens, subject.arch), tokens),
        subject.setting.kv_dtype,
        subject.draft,
    )
    return [
        replace(d, limits=replace(d.limits, max_model_len=int(length)))
        for d, length in zip(deployments, longest, strict=True)
    ]


def _runnable(subject: Subject, question: Question) -> tuple[list[int], list[Skipped]]:
    """Return TPs with room for a single request, and the others with the reason.

    A TP that the model cannot be sharded to is an input error; one that is too small is a result
    of the study.
    """
    if not question.tp_sizes:
        raise InputError("0 TP sizes", "needed: at least 1", field="tp_sizes")
    fitting, skipped = [], []
    context = question.isl + question.osl
    for tp in question.tp_sizes:
        require_layout(subject.arch, Layout(tp), subject.platform.loader)
        if tp > question.gpus:
            raise InputError(
                f"TP={tp} on {question.gpus} GPUs", f"allowed: 1 to {question.gpus}", field="gpus"
            )
        deployment = deployment_of(subject, question, Layout(tp), 1)
        if memory_plan(subject.arch, subject.gpu, deployment, context).fits:
            fitting.append(tp)
            continue
        try:
            require_fit(subject.arch, subject.gpu, deployment, context)
        except DoesNotFitError as error:
            skipped.append(Skipped(tp, str(error)))
    if not fitting:
        raise DoesNotFitError(skipped[-1].reason)
    return fitting, skipped


def require_question(subject: Subject, question: Question) -> None:
    """Raise InputError for questions that no layout could serve: lengths, limits, engine, GPU,
    caching."""
    HardwareNode(subject.gpu, question.gpus)
    require_context(subject.arch, question.isl, question.osl)
    require_length_cv(question.length_cv)
    require_length(question.limits, question.isl + question.osl, subject.arch)
    require_able(deployment_of(subject, question, Layout(), 1), subject.gpu, subject.arch)
    if question.cached_tokens:
        require_prefix_caching(subject.engine, subject.gpu, subject.engine_version)


def workload_of(question: Question, concurrency: int) -> Workload:
    """Return the workload of one replica at `concurrency` requests in flight."""
    asked = question.requests
    return Workload(
        question.isl,
        question.osl,
        concurrency,
        question.mode,
        requests=max(asked, concurrency) if asked > 0 else asked,
        cached_tokens=question.cached_tokens,
        length_spread=spread_of(question.length_cv),
    )


def predict_grid(subject: Subject, question: Question) -> tuple[list[Evidence], list[Skipped]]:
    """Predict every TP that fits at every batch."""
    require_question(subject, question)
    sizes, skipped = _runnable(subject, question)
    cells = [(tp, c) for tp in sizes for c in question.concurrencies]
    workloads = [workload_of(question, c) for _, c in cells]
    deployments = with_longest(
        subject, question, [deployment_of(subject, question, Layout(tp), c) for tp, c in cells]
    )
    return predict(subject, deployments, workloads), skipped


def analyse(
    question: Question,
    evidence: Sequence[Evidence],
    skipped: Sequence[Skipped],
    usd_per_gpu_hour: float | None,
    rho: float = LAYOUT_RHO,
) -> Study:
    """Analyse evidence of any kind on one grid."""
    grid = index(evidence)
    steps = transitions(grid, rho=rho)
    return Study(
        question=question,
        evidence=tuple(evidence),
        skipped=tuple(skipped),
        steps=steps,
        kept=latency_keeping_batches(grid),
        breakevens=breakeven_tp(steps, MIN_GAIN_PCT),
        costs=node_costs(grid, Node(question.gpus, usd_per_gpu_hour), rho=rho),
        findings=(*audit_grid(grid), *audit_steps(steps)),
    )


def run(subject: Subject, question: Question, usd_per_gpu_hour: float | None) -> Study:
    """Predict the grid of a question and analyse it."""
    evidence, skipped = predict_grid(subject, question)
    return analyse(question, evidence, skipped, usd_per_gpu_hour)
