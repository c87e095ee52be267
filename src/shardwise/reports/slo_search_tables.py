"""Deployments that hold a request rate, as sentences, a table and one JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardwise import metrics
from shardwise.analysis.slo_search import Finalist, SloSearch, label
from shardwise.planner.command import Replica
from shardwise.reports.decision_tables import Value, ranked_table
from shardwise.reports.numbers import quantity
from shardwise.reports.table import INTERVALS, Column, Table


def _name(f: Finalist) -> str:
    d = f.deployment
    plain = d.layout.name == f"TP{d.tp_size}"
    layout = f"TP={d.tp_size}" if plain else f"({d.layout.name})"
    return f"{d.replicas} x {layout} {d.dtypes.weight} on {d.gpu}"


def _cost(f: Finalist) -> str:
    return f"{f.deployment.gpus} GPUs" if f.usd_per_hour is None else f"{f.usd_per_hour:.4g} USD/h"


def recommendation(found: SloSearch) -> str:
    """What to deploy, what it gives at the rate, and how much more it would hold."""
    best = found.best
    q, m = best.question, best.evidence.metrics
    bounds = ", ".join(f"{label(t)} {1e3 * t.bound_s:g} ms" for t in found.targets)
    given = ", ".join(
        f"{label(t)} {quantity(m[metrics.percentile_name(t.metric, t.percentile)], 's')}"
        for t in found.targets
    )
    sure = (
        "It also holds with every step at the slow end of its 80 % interval."
        if best.certain
        else "With every step at the slow end of its 80 % interval it would not hold."
    )
    subject = q.subject(best.deployment.dtypes.weight)
    far = subject.calibrated.profile.knowledge.far(subject.asked, best.deployment.layout)
    unmeasured = f", though nothing near it was measured ({far})" if far else ""
    return (
        f"Deploy {q.arch.id} as {_name(best)} ({best.deployment.engine}){unmeasured}, "
        f"{_cost(best)}: the "
        f"cheapest simulated that holds {q.demand.request_rate:g} requests/s within {bounds}. "
        f"There: {given}.\nIt holds up to {quantity(best.rate_held, 'requests/s')}. {sure}"
    )


def slo_search_table(found: SloSearch) -> Table:
    """Finalists, cheapest first."""
    has_price = found.best.usd_per_hour is not None
    cost = metrics.GOOD_COST
    columns = (
        Column("#", "rank"),
        Column("deployment", "deployment", align="left"),
        Column("GPUs", "gpus"),
        *((Column("price", "usd_per_hour", "USD/h", optional=2),) if has_price else ()),
        Column("rate held", metrics.REQUEST_RATE.name, "requests/s"),
        Column("TTFT p50", "ttft_p50_s", "s", optional=3),
        Column("TTFT p99", "ttft_p99_s", "s"),
        Column("TPOT p50", "tpot_p50_s", "s", optional=3),
        Column("TPOT p99", "tpot_p99_s", "s"),
        *((Column("good tokens", cost.name, cost.unit, optional=2),) if has_price else ()),
        Column("at the slow end", "certain", align="left", optional=1),
    )
    q = found.best.question
    notes = dict.fromkeys(f"simulated: {f.evidence.source.name}" for f in found.finalists)
    return ranked_table(
        "holding",
        f"{q.arch.id} under {q.demand.request_rate:g} Poisson requests/s, {q.demand.isl} in / "
        f"{q.demand.osl} out: the fewest replicas of each TP that hold, cheapest first",
        columns,
        [_row(i, f) for i, f in enumerate(found.finalists, 1)],
        (INTERVALS, "latencies at the rate asked", *_prices(found), *notes),
    )


def _prices(found: SloSearch) -> Iterator[str]:
    """The price of each kind of GPU among the finalists."""
    questions = {f.deployment.gpu: f.question for f in found.finalists}
    for gpu, question in questions.items():
        if question.price_note:
            yield f"{gpu}, {question.price_note}"


def _row(number: int, f: Finalist) -> dict[str, Value]:
    m = f.evidence.metrics
    names = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", metrics.GOOD_COST.name)
    return {
        "rank": str(number),
        "deployment": _name(f),
        "gpus": str(f.deployment.gpus),
        "usd_per_hour": f.usd_per_hour,
        metrics.REQUEST_RATE.name: f.rate_held,
        **{name: m.get(name) for name in names},
        "certain": "holds" if f.certain else "does not",
    }


def rejected_lines(found: SloSearch) -> list[str]:
    """Rejected candidates, those of one cause and reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for gpu, r in found.rejected:
        groups.setdefault((r.cause, r.reason), []).append(f"{r.option} on {gpu}")
    return [f"{cause}: {', '.join(who)}: {why}" for (cause, why), who in groups.items()]


def slo_search_document(found: SloSearch, commands: Sequence[Replica], note: str) -> dict[str, Any]:
    """The whole answer for JSON, SI units."""
    q = found.best.question
    return {
        "recommendation": recommendation(found),
        "model": q.arch.id,
        "demand": q.demand,
        "targets": found.targets,
        "price_notes": list(_prices(found)),
        "finalists": [
            {
                "name": _name(f),
                "evidence": f.evidence,
                "gpus": f.deployment.gpus,
                "usd_per_hour": f.usd_per_hour,
                metrics.REQUEST_RATE.name: f.rate_held,
                "holds_at_slow_end": f.certain,
            }
            for f in found.finalists
        ],
        "rejected": [{"gpu": gpu, "rejected": r} for gpu, r in found.rejected],
        "commands": [
            {"devices": r.devices, "port": r.port, "environment": r.environment, "argv": r.argv}
            for r in commands
        ],
        "command_note": note,
    }
