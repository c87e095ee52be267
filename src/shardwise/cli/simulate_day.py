"""`shardwise simulate --day`: replicas by the hour, as plain data and as tables."""

from __future__ import annotations

from typing import Any

from shardwise.api.simulation import price_of, with_caching
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.profiles import load_profile
from shardwise.perfmodel.subject import catalogue_for
from shardwise.reports.decision_tables import ranked_table
from shardwise.reports.prices import price_note
from shardwise.reports.table import Column, Table
from shardwise.simulator.capacity import Target
from shardwise.simulator.day import size_day
from shardwise.simulator.fleet import make_group
from shardwise.simulator.traffic import lengths_within

MAX_HOURS = 24 * 31
HOUR_S = 3600.0


def rates_of(text: str) -> list[float]:
    """Requests/s of each hour from `2,1,1,4`. InputError for anything else."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--day {text[:40]!r}", "expected: requests/s of each hour, as in 2,1,1,4"
        ) from None
    if len(rates) > MAX_HOURS:
        raise InputError(f"--day has {len(rates)} hours", f"allowed: up to {MAX_HOURS}")
    return rates


def day_answer(deployments: list[Deployment], options: dict[str, Any]) -> dict[str, Any]:
    """Size the day for bounds on 99th percentiles."""
    targets = [
        Target(f"{name}_s", 99, options[name])
        for name in ("ttft", "tpot")
        if options[name] is not None
    ]
    if not targets:
        raise InputError("--day without a bound", "needed: --ttft, --tpot or both")
    if len(deployments) != 1:
        raise InputError(f"--day with {len(deployments)} models", "allowed: one model")
    catalogue = catalogue_for(options["catalogue_files"])
    group = with_caching(
        make_group(deployments[0], load_profile(options["profile"]), catalogue),
        not options["no_prefix_caching"],
    )
    cv = options["length_cv"]
    day = size_day(
        group,
        rates_of(options["day"]),
        lengths_within(options["isl"], options["osl"], cv, group.longest),
        targets,
        stage_s=HOUR_S,
        start_up_s=options["start_up"],
        seed=options["seed"],
    )
    price = price_of([group], options["usd_per_gpu_hour"], catalogue)
    gpus = group.deployment.layout.replica_gpus
    return {
        "deployment": group.deployment,
        "day": day,
        "usd": [
            None if price is None else p.replica_hours * gpus * price.usd_per_hour
            for p in day.plans
        ],
        "price_note": price_note(price),
    }


def day_tables(found: dict[str, Any]) -> list[Table]:
    """What each hour needs, and what three ways to run the day cost and miss."""
    d, day = found["deployment"], found["day"]
    hours = ranked_table(
        "hours",
        f"{d.model} on {d.gpu}, TP={d.tp_size}: replicas by the hour",
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
            "replicas: fewest whose p99 is within the bounds at that hour's rate",
            "good: requests within the bounds, the day simulated whole",
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
            "schedule: knows the day, and starts replicas ahead of their hour",
            "autoscaler: counts each minute's arrivals; a replica that it starts is ready later",
            *([found["price_note"]] if found["price_note"] else []),
        ),
    )
    return [hours, plans]
