"""Summarise simulations over the seeds of each deployment, policy and rate."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shardwise.evidence.record import Interval
from shardwise.layout.deployment import Deployment
from shardwise.simulator.search import Job, Outcome


class Summary(msgspec.Struct, frozen=True):
    """Runs of one deployment, policy and rate with different seeds.

    Values are medians over the runs, with the range of 80 % of them; None if no run has a value.
    """

    deployment: Deployment
    policy: str
    request_rate: float
    runs: int
    overloaded: int
    error: str  #: why it cannot be simulated, "" if it can
    goodput: Interval | None
    ttft_p99_s: Interval | None
    tpot_p99_s: Interval | None
    hit_rate: Interval | None  #: share of prompt tokens found in a prefix cache
    imbalance: Interval | None  #: requests of the busiest replica over the mean
    beyond_p99: int = 0  #: requests slower than the 99th percentile, in the shortest run


def _over(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    lo, mid, hi = (float(x) for x in np.percentile(known, [10, 50, 90]))
    return Interval(mid, lo, hi, len(known))


def summaries(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> list[Summary]:
    """Return summaries in order of first appearance. `outcomes` correspond to `jobs`."""
    groups: dict[tuple[Deployment, str, float], list[Outcome]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        key = job.deployment, job.policy, job.traffic.request_rate
        groups.setdefault(key, []).append(outcome)
    found = []
    for (deployment, policy, rate), runs in groups.items():
        done = [run for run in runs if not run.error]
        found.append(
            Summary(
                deployment=deployment,
                policy=policy,
                request_rate=rate,
                runs=len(runs),
                overloaded=sum(run.overloaded for run in done),
                error=next((run.error for run in runs if run.error), ""),
                goodput=_over([run.goodput for run in done]),
                ttft_p99_s=_over([run.percentiles["ttft_s"]["p99"] for run in done]),
                tpot_p99_s=_over([run.percentiles["tpot_s"]["p99"] for run in done]),
                hit_rate=_over([run.hit_rate for run in done]),
                imbalance=_over([run.imbalance for run in done]),
                beyond_p99=min((run.counted or run.done) // 100 for run in done) if done else 0,
            )
        )
    return found
