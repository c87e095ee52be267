"""Compare kinds of GPU by their best deployment."""

from __future__ import annotations

from shardwise import metrics
from shardwise.planner.kinds import Kinds
from shardwise.reports.cells import lengths
from shardwise.reports.decision_tables import Value, ranked_table
from shardwise.reports.table import INTERVALS, Column, Table


def kinds_table(kinds: Kinds) -> Table:
    """Return a row for each kind that has a plan, the best first."""
    q = kinds.best.question
    cost = metrics.ALL[kinds.best.best.cost_metric]
    columns = (
        Column("GPU", "gpu", align="left"),
        Column("deployment", "deployment", align="left"),
        Column("TTFT", "ttft_s", "s"),
        Column("TPOT", "tpot_s", "s"),
        Column("E2E", "e2e_latency_s", "s", optional=2),
        Column("node", "node_output_tok_s", "tok/s", optional=1),
        Column(cost.label, cost.name, cost.unit),
        Column(f"{q.objective}, %", "against_best_pct", optional=3),
    )
    return ranked_table(
        "kinds",
        f"{q.arch.id} on {q.node.gpus} GPUs of each kind, {lengths(q.demand)}, ranked by the "
        f"pessimistic end of {q.objective}",
        columns,
        [_row(kinds, i) for i in range(len(kinds.plans))],
        (
            INTERVALS,
            *(
                f"{p.question.node.gpu.id}: {p.question.price_note}"
                for p in kinds.plans
                if p.question.price_note
            ),
        ),
    )


def _row(kinds: Kinds, index: int) -> dict[str, Value]:
    made = kinds.plans[index]
    c, m = made.best, made.best.evidence.metrics
    return {
        "gpu": made.question.node.gpu.id,
        "deployment": c.name,
        **{name: m[name] for name in ("ttft_s", "tpot_s", "e2e_latency_s")},
        "node_output_tok_s": c.node_output_tok_s,
        c.cost_metric: c.cost,
        "against_best_pct": _against(kinds, index) if index else None,
    }


def _against(kinds: Kinds, index: int) -> float:
    """Return by how many percent its predicted objective is worse than the best one's."""
    objective = kinds.best.question.objective
    name = "latency" if objective == "latency" else "cost"
    if objective == "throughput":
        first, other = (kinds.plans[i].best.node_output_tok_s.value for i in (0, index))
        return metrics.percent_change(first, other)
    first, other = (kinds.plans[i].best.mean(name) for i in (0, index))
    return metrics.percent_change(first, other)
