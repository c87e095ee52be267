"""What to deploy for online and for offline use.

For predictions, the advice comes from the planner, so that a study and `shardwise plan` agree. For
other evidence, and for questions that the planner does not support, it is chosen among the cells
by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from shardwise import metrics
from shardwise.analysis.cost import NodeCost
from shardwise.analysis.grid import Grid
from shardwise.errors import DoesNotFitError
from shardwise.evidence.record import Evidence
from shardwise.planner import plan as planning
from shardwise.planner.candidates import Rejected
from shardwise.planner.question import Question
from shardwise.planner.rank import Candidate, missed
from shardwise.workload.workload import Slo

Use = Literal["online", "offline"]
Basis = Literal["plan", "cells"]


class Advice(msgspec.Struct, frozen=True):
    """The cheapest full node for a use, by the pessimistic end of its cost, with its
    performance."""

    use: Use
    slo: Slo
    choice: NodeCost
    evidence: Evidence  #: of one replica
    certain: bool  #: whether the whole interval meets the SLO, not only the value
    basis: Basis = "cells"  #: every concurrency and PP planned, or the cells studied
    note: str = ""  #: what the reader must know that the charts do not show

    @property
    def capacity_left(self) -> float:
        """Share of the node's throughput that remains if one GPU fails."""
        return (self.choice.copies - 1) / self.choice.copies


class NoAdvice(msgspec.Struct, frozen=True):
    """Nothing meets the SLO or sustains the load; names the nearest and its excess."""

    use: Use
    slo: Slo
    nearest: str


def planned_advice(use: Use, made: planning.Plan, tp_sizes: Sequence[int]) -> Advice | NoAdvice:
    """Return the advice of a plan among `tp_sizes`.

    Raises DoesNotFitError if none of them was planned.
    """
    question = made.question
    ranked = [c for c in made.ranked if c.deployment.tp_size in tp_sizes]
    if ranked:
        return _planned(use, question, made.ranked[0], ranked[0])
    missing = [c for c in made.missing if c.deployment.tp_size in tp_sizes]
    slow = [
        r for r in made.rejected if r.cause == "overload" and r.option.layout.tp_size in tp_sizes
    ]
    if not missing and not slow:
        raise DoesNotFitError(f"no TP of {', '.join(map(str, tp_sizes))} fits in memory")
    return NoAdvice(use, question.slo, _nearest(missing, slow))


def _planned(use: Use, question: Question, best: Candidate, chosen: Candidate) -> Advice:
    found, deployment = chosen.evidence, chosen.deployment
    notes = []
    if best is not chosen:
        notes.append(f"If every TP is allowed, {best.name} is better.")
    choice = NodeCost(
        scenario="full_node",
        tp_size=deployment.tp_size,
        concurrency=found.workload.concurrency,
        copies=deployment.replicas,
        batch_per_copy=float(found.workload.concurrency),
        gpus=chosen.gpus_paid,
        output_tok_s=chosen.node_output_tok_s,
        e2e_latency_s=found.metrics[metrics.E2E.name],
        cost=chosen.cost,
        cost_metric=chosen.cost_metric,
    )
    certain = all(check.certain for check in chosen.checks)
    return Advice(use, question.slo, choice, found, certain, "plan", " ".join(notes))


def _nearest(missing: Sequence[Candidate], slow: Sequence[Rejected]) -> str:
    if missing:
        return f"{missing[0].name} {missed(missing[0])}"
    most = max(slow, key=lambda r: r.request_rate)
    return f"{most.option} {most.reason}"


def advise(use: Use, slo: Slo, costs: Iterable[NodeCost], grid: Grid) -> Advice | NoAdvice:
    """Return the full node with the cheapest output tokens among the cells that meet the SLO."""
    full: Sequence[NodeCost] = [c for c in costs if c.scenario == "full_node"]
    meets = [c for c in full if _excess(grid[c.tp_size, c.concurrency], slo)[0] <= 0]
    if not meets:
        near = min(full, key=lambda c: _excess(grid[c.tp_size, c.concurrency], slo))
        excess, name = _excess(grid[near.tp_size, near.concurrency], slo)
        return NoAdvice(
            use,
            slo,
            f"TP={near.tp_size} at batch {near.concurrency} misses {metrics.ALL[name].label} "
            f"by {100 * excess:,.1f} %",
        )
    best = min(meets, key=lambda c: c.cost.hi)
    cell = grid[best.tp_size, best.concurrency]
    certain = all(
        cell.metrics[name].hi <= bound
        for name, bound in slo.bounds().items()
        if name in cell.metrics
    )
    return Advice(use, slo, best, cell, certain)


def _excess(evidence: Evidence, slo: Slo) -> tuple[float, str]:
    """Return the largest value / bound - 1 over an SLO, and its metric; at most 0 if it is met."""
    misses = [
        (evidence.metrics[name].value / bound - 1.0, name)
        for name, bound in slo.bounds().items()
        if name in evidence.metrics
    ]
    return max(misses, default=(0.0, ""))
