"""Format a plan as tables and as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from shardwise import metrics
from shardwise.architecture.bundled import stored_in
from shardwise.layout.gemms import step_gemms
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.planner.candidates import Rejected
from shardwise.planner.command import Replica
from shardwise.planner.explanation import explain
from shardwise.planner.fullness import tokens_per_step
from shardwise.planner.plan import Plan
from shardwise.planner.rank import Candidate
from shardwise.reports.cells import lengths
from shardwise.reports.decision_tables import Value, ranked_table
from shardwise.reports.plan_words import BINDING, recommendation
from shardwise.reports.table import INTERVALS, Column, Table

#: Candidates shown in the table; the JSON document has all.
MOST_SHOWN: Final = 12


def plan_table(plan: Plan, most: int = MOST_SHOWN) -> Table:
    """Return a table of ranked candidates, then those that miss the SLO: the first `most` of
    them."""
    every = (*plan.ranked, *plan.missing)
    everything, more = every[:most], len(every) - most
    cost = metrics.ALL[everything[0].cost_metric]
    columns = (
        Column("#", "rank"),
        Column("deployment", "deployment", align="left"),
        Column("in flight", "concurrency", "per replica", optional=2),
        Column("TTFT", "ttft_s", "s"),
        Column("TPOT", "tpot_s", "s"),
        Column("E2E", "e2e_latency_s", "s", optional=3),
        Column("node", "node_output_tok_s", "tok/s", optional=1),
        Column(cost.label, cost.name, cost.unit),
        Column("matrix rate", "matrix_share_pct", "% used", optional=6),
        Column(
            "left",
            "capacity_left_pct",
            "% of capacity",
            optional=5,
            note="left: capacity that remains if one GPU (and so its replica) fails",
        ),
        Column("binds", "binding", align="left", optional=4),
        Column("vs. row above", "behind", align="left"),
    )
    rows = [_row(i, c, c in plan.ranked) for i, c in enumerate(everything, 1)]
    q = plan.question
    notes = dict.fromkeys(f"predicted: {c.evidence.source.name}" for c in everything)
    return ranked_table(
        "plan",
        f"{q.arch.id} on {q.node.name}, {lengths(q.demand)}, "
        f"ranked by the pessimistic end of {q.objective}",
        columns,
        rows,
        (
            INTERVALS,
            *([f"{more} more candidates are not shown; --json has all"] if more > 0 else []),
            *filter(None, [q.price_note, q.memory_note]),
            *notes,
        ),
    )


def _row(number: int, c: Candidate, ranked: bool) -> dict[str, Value]:
    m = c.evidence.metrics
    kv = " (KV-limited)" if c.kv_limited else ""
    return {
        "rank": str(number) if ranked else "–",
        "deployment": c.name,
        "concurrency": str(c.evidence.workload.concurrency),
        **{name: m[name] for name in ("ttft_s", "tpot_s", "e2e_latency_s")},
        "node_output_tok_s": c.node_output_tok_s,
        c.cost_metric: c.cost,
        "matrix_share_pct": c.matrix_share * 100,
        "capacity_left_pct": c.capacity_left * 100,
        "binding": BINDING[c.binding] + kv,
        "behind": c.behind,
    }


def rejected_lines(rejected: Sequence[Rejected]) -> list[str]:
    """Return one line per cause and reason of rejection, with its candidates."""
    groups: dict[tuple[str, str], list[str]] = {}
    for r in rejected:
        groups.setdefault((r.cause, r.reason), []).append(str(r.option))
    return [f"{cause}: {', '.join(who)}: {why}" for (cause, why), who in groups.items()]


def plan_document(plan: Plan, commands: Sequence[Replica], note: str) -> dict[str, Any]:
    """Return the whole plan for JSON: SI units, every candidate, GEMM shapes, commands."""
    q = plan.question
    return {
        "recommendation": recommendation(plan),
        "explanation": explain(plan),
        "model": q.arch.id,
        "gpu": q.node.gpu.id,
        "gpus": q.node.gpus,
        "nodes": q.node.nodes,
        "network": q.node.network,
        "usd_per_gpu_hour": q.usd_per_gpu_hour,
        "price_note": q.price_note,
        "memory_note": q.memory_note,
        "demand": q.demand,
        "slo": q.slo,
        "objective": q.objective,
        "ranked": [_candidate(plan, c) for c in plan.ranked],
        "missing_slo": [_candidate(plan, c) for c in plan.missing],
        "rejected": plan.rejected,
        "too_wide": plan.too_wide,
        "commands": [
            {
                "node": r.node,
                "devices": r.devices,
                "port": r.port,
                "environment": r.environment,
                "argv": r.argv,
            }
            for r in commands
        ],
        "command_note": note,
    }


def _candidate(plan: Plan, c: Candidate) -> dict[str, Any]:
    stored = stored_in(plan.question.arch, c.deployment.dtypes.weight)
    rank = rank_shards(stored, replace(c.deployment.layout, replicas=1))
    gemms = step_gemms(rank, tokens_per_step(c.evidence))
    question = plan.question
    return {
        "name": c.name,
        "evidence": c.evidence,
        "memory": memory_plan(question.arch, question.node.gpu, c.deployment, question.context),
        "gpus_used": c.deployment.gpus,
        "gpus_paid": c.gpus_paid,
        "node_output_tok_s": c.node_output_tok_s,
        c.cost_metric: c.cost,
        "slo_checks": c.checks,
        "binding": c.binding,
        "matrix_share": c.matrix_share,
        "kv_limited": c.kv_limited,
        "capacity_left": c.capacity_left,
        "reason": c.behind,
        "gemms_per_step": gemms,
    }
