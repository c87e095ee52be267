"""Tables of a simulated day: replicas needed per hour, and the cost of three ways to run it."""

from __future__ import annotations

from typing import Any

from shardwise.reports.decision_tables import ranked_table
from shardwise.reports.table import Column, Table


def day_tables(found: dict[str, Any]) -> list[Table]:
    """Return the replicas needed per hour, and cost and missed requests of three ways to run the
    day."""
    d, day = found["deployment"], found["day"]
    hours = ranked_table(
        "hours",
        f"{d.model} on {d.gpu}, {d.layout.name}: replicas by the hour",
        (
            Column("hour", "hour"),
            Column("rate", "request_rate", "requests/s"),
            Column("replicas", "needed"),
            Column("good", "good_scheduled", align="right"),
            Column("autoscaler", "autoscaled", "replicas"),
            Column("good", "good_autoscaled", align="right"),
        ),
        [
            {
                "hour": str(k),
                "request_rate": hour.request_rate,
                "needed": str(hour.needed),
                "good_scheduled": f"{100 * hour.good_scheduled:.1f} %",
                "autoscaled": f"{hour.autoscaled:.2f}",
                "good_autoscaled": f"{100 * hour.good_autoscaled:.1f} %",
            }
            for k, hour in enumerate(day.hours)
        ],
        (
            "replicas: smallest number whose p99 meets the bounds at that hour's rate",
            "good: requests within the bounds, in a simulation of the whole day",
        ),
    )
    plans = ranked_table(
        "plans",
        f"the day, {day.start_up_s:g} s from start to first request",
        (
            Column("plan", "plan", align="left"),
            Column("replicas", "replica_hours", "hours"),
            Column("cost", "usd", "USD"),
            Column("missed", "missed", "requests"),
            Column("missed", "share", align="right"),
        ),
        [
            {
                "plan": plan.name,
                "replica_hours": plan.replica_hours,
                "usd": usd,
                "missed": str(plan.missed),
                "share": f"{100 * plan.missed / plan.requests:.2f} %",
            }
            for plan, usd in zip(day.plans, found["usd"], strict=True)
        ],
        (
            "schedule: starts replicas before the hour in which they are needed",
            "autoscaler: counts each minute's arrivals; a new replica is ready after its start-up "
            "time",
            *([found["price_note"]] if found["price_note"] else []),
        ),
    )
    return [hours, plans]
