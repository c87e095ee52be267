"""The plan: candidates that are ranked, miss the SLO, or are rejected."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.errors import DoesNotFitError, NothingMeetsError
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.perfmodel.memory import require_fit
from shardwise.planner.candidates import Rejected, enumerate_candidates
from shardwise.planner.operating_point import limits_of, load_candidates
from shardwise.planner.question import Question
from shardwise.planner.rank import Candidate, candidates, missed, rank


class Plan(msgspec.Struct, frozen=True):
    """`ranked` meet the SLO, best first; `missing` do not, nearest first; `rejected` cannot run or
    cannot sustain the load. `too_wide`: weight dtypes that were looked at first, none of which
    fits."""

    question: Question
    ranked: tuple[Candidate, ...]
    missing: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    too_wide: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The candidate ranked first."""
        return self.ranked[0]


def explore(question: Question) -> Plan:
    """Return every candidate, whether or not one meets the SLO. Raises DoesNotFitError if none
    fits in memory."""
    possible, rejected = enumerate_candidates(question)
    found: list[Candidate] = []
    for dtype in question.dtypes():
        loaded, too_much = load_candidates(
            question, [o for o in possible if o.weight_dtype == dtype]
        )
        rejected += too_much
        found += candidates(question, question.subject(dtype), loaded)
    if not found and not any(r.cause == "overload" for r in rejected):
        if (last := question.last_dtype()) is not None:
            narrower = explore(replace(question, weight_dtype=last))
            return replace(
                narrower,
                rejected=(*rejected, *narrower.rejected),
                too_wide=question.dtypes(),
            )
        _explain_misfit(question, rejected)
    ranked, missing = rank(question, found)
    return Plan(question, tuple(ranked), tuple(missing), tuple(rejected))


def plan(question: Question) -> Plan:
    """Return a plan with at least one ranked candidate.

    Raises DoesNotFitError, or NothingMeetsError naming the nearest candidate and the SLOs it
    misses.
    """
    made = explore(question)
    if made.ranked:
        return made
    if made.missing:
        near = made.missing[0]
        values = ", ".join(
            f"{metrics.ALL[c.metric].label} {c.predicted_s * 1e3:.4g} ms against "
            f"{c.bound_s * 1e3:.4g} ms"
            for c in near.checks
            if c.over_pct > 0
        )
        raise NothingMeetsError(
            f"no deployment of {question.arch.id} on {question.node.gpus} x "
            f"{question.node.gpu.id} meets the SLO; nearest: {near.name} {missed(near)} ({values})"
        )
    most = max(made.rejected, key=lambda r: r.request_rate)
    raise NothingMeetsError(
        f"no deployment of {question.arch.id} on {question.node.gpus} x {question.node.gpu.id} "
        f"sustains {question.demand.request_rate:g} requests/s; nearest: {most.option} "
        f"{most.reason}; lower --request-rate to {most.request_rate:.3g} or add GPUs"
    )


def _explain_misfit(question: Question, rejected: list[Rejected]) -> None:
    short = [r for r in rejected if r.cause == "memory"]
    if not short:  # an engine that supports no TP of the model
        raise DoesNotFitError(
            f"no layout of {question.arch.id} on {question.node.name} with {question.engine}: "
            f"{rejected[0].option}: {rejected[0].reason}"
        )
    nearest = min(short, key=lambda r: r.shortfall_bytes)
    option = nearest.option
    deployment = Deployment(
        model=question.arch.id,
        gpu=question.node.gpu.id,
        layout=option.layout,
        limits=limits_of(question, 8, question.context),
        dtypes=Dtypes(option.weight_dtype, question.subject(option.weight_dtype).kv_dtype),
        engine=question.engine,
        engine_version=question.engine_version,
        speculation=question.speculation,
    )
    try:
        require_fit(question.arch, question.node.gpu, deployment, question.context)
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}; nearest of {len(short)} candidates") from None
    # it fits with fewer sequences in flight than requested
    raise DoesNotFitError(
        f"{question.arch.id} on {question.node.gpus} x {question.node.gpu.id}: {option} is "
        f"{nearest.reason}; lower the concurrency"
    )
