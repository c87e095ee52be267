"""Table of many simulations."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise.planner.candidates import Option
from shardwise.reports.decision_tables import Value, ranked_table
from shardwise.reports.table import Column, Table
from shardwise.simulator.results import FEW
from shardwise.simulator.summary import Summary


def search_table(found: Sequence[Summary]) -> Table:
    """Return a row per deployment, policy and rate."""
    columns = (
        Column("deployment", "deployment", align="left"),
        Column("policy", "policy", align="left"),
        Column("rate", "request_rate", "requests/s"),
        Column("runs", "runs", optional=2),
        Column("overloaded", "overloaded", "runs", optional=2),
        Column("goodput", "goodput", "requests/s"),
        Column("TTFT p99", "ttft_p99_s", "s"),
        Column("TPOT p99", "tpot_p99_s", "s"),
        Column("beyond", "beyond_p99", "requests", optional=3),
        Column("cached", "hit_rate", optional=3),
        Column("busiest", "imbalance", "x mean", optional=3),
        Column("outcome", "error", align="left", optional=1),
    )
    fewest = min((s.beyond_p99 for s in found if not s.error), default=0)
    few = " or more" + ("; mostly noise: run longer" if fewest < FEW else "")
    return ranked_table(
        "search",
        f"{sum(s.runs for s in found)} simulations",
        columns,
        [_row(s) for s in found],
        (
            "medians over the seeds; intervals: the range that 80 % of the runs fall in",
            f"slowest requests that the p99 of a run is based on: {fewest}{few}",
            "cached: share of prompt tokens found in a prefix cache; busiest: requests of the "
            "replica with the most",
        ),
    )


def _row(s: Summary) -> dict[str, Value]:
    d = s.deployment
    return {
        "deployment": f"{Option(d.layout, d.dtypes.weight)} on {d.gpu}",
        "policy": s.policy,
        "request_rate": s.request_rate,
        "runs": str(s.runs),
        "overloaded": str(s.overloaded),
        "goodput": s.goodput,
        "ttft_p99_s": s.ttft_p99_s,
        "tpot_p99_s": s.tpot_p99_s,
        "beyond_p99": str(s.beyond_p99),
        "hit_rate": s.hit_rate,
        "imbalance": s.imbalance,
        "error": s.error or "simulated",
    }
