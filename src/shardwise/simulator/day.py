"""Replicas per hour: the needs of a day's traffic, and the behaviour of an autoscaler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.errors import InputError, NothingMeetsError
from shardwise.simulator.capacity import Target, holds
from shardwise.simulator.fleet import Group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import Change, simulate
from shardwise.simulator.trace import Trace
from shardwise.simulator.traffic import Lengths, Stage, draw, in_stages
from shardwise.workload.workload import Slo

MAX_REPLICAS = 1024
PROBE_REQUESTS = 2000  #: of the run that decides whether a number of replicas holds
PROBE_S = 120.0  #: and the least time it covers
#: How often the autoscaler looks, and how long it keeps a replica that it no longer needs: the
#: defaults of Kubernetes' horizontal autoscaler are 15 s and 300 s; looked at once a minute here.
LOOK_S = 60.0
MOST_RAISES = 8  #: times that a day is run whole with more replicas in the stages that miss
KEEP_S = 300.0


class Hour(msgspec.Struct, frozen=True):
    """One stage of the day."""

    request_rate: float
    needed: int  #: fewest replicas that hold
    autoscaled: float  #: mean replicas that the autoscaler pays for
    good_scheduled: float  #: share of requests within the SLO with `needed`, started ahead
    good_autoscaled: float


class Plan(msgspec.Struct, frozen=True):
    """A way to run the day. `replica_hours` include start-up."""

    name: str
    replica_hours: float
    missed: int  #: requests outside the SLO
    requests: int


class Day(msgspec.Struct, frozen=True):
    """Hours, and three ways to serve them."""

    hours: tuple[Hour, ...]
    plans: tuple[Plan, ...]  #: always the peak; the schedule; the autoscaler
    start_up_s: float


def size_day(
    group: Group,
    rates: Sequence[float],
    lengths: tuple[Lengths, Lengths],
    targets: Sequence[Target],
    *,
    start_up_s: float,
    stage_s: float = 3600.0,
    seed: int = 0,
) -> Day:
    """Size each stage of a day for its rate, and simulate the whole day three times.

    `rates`: requests/s of each stage of `stage_s`. The schedule starts replicas `start_up_s`
    before their stage. The autoscaler counts each minute's arrivals, and its replicas accept
    requests `start_up_s` later. Raises InputError, or NothingMeetsError if no number of replicas
    meets the bounds.
    """
    if not 0 <= start_up_s < 86400:
        raise InputError(f"start-up is {start_up_s:g} s", "allowed: 0 to 86400 s")
    traffic = in_stages([Stage(rate, stage_s) for rate in rates], *lengths)
    trace = draw(traffic, seed)
    slo = Slo(**{target.metric: target.bound_s for target in targets})
    stage = np.minimum((trace.arrival_s // stage_s).astype(np.int64), len(rates) - 1)

    def scheduled_run(needed: Sequence[int]) -> Result:
        steps = _scheduled(needed, stage_s, start_up_s)
        return _run(group, trace, steps, max(needed), start_up_s, seed)

    needed = _confirmed(
        _needed(group, rates, lengths, targets, seed), scheduled_run, stage, targets
    )
    peak = max(needed)
    each = min(rate / n for rate, n in zip(rates, needed, strict=True) if n == peak)
    scheduled = _scheduled(needed, stage_s, start_up_s)
    reactive = _reactive(trace, each, needed[0], peak, start_up_s)
    end_s = stage_s * len(rates)
    plans, good = [], {}
    for name, steps in (
        ("always the peak", [(0.0, peak)]),
        ("schedule", scheduled),
        ("autoscaler", reactive),
    ):
        result = _run(group, trace, steps, peak, start_up_s, seed)
        good[name] = result.good(slo)
        paid = _paid(steps, end_s) / 3600.0
        plans.append(Plan(name, paid, int((~good[name]).sum()), len(trace)))
    hours = [
        Hour(
            rate,
            needed[k],
            _paid([(at - k * stage_s, n) for at, n in reactive], stage_s) / stage_s,
            _share(good["schedule"], stage == k),
            _share(good["autoscaler"], stage == k),
        )
        for k, rate in enumerate(rates)
    ]
    return Day(tuple(hours), tuple(plans), start_up_s)


def _confirmed(
    needed: Sequence[int],
    scheduled_run: Callable[[Sequence[int]], Result],
    stage: NDArray[np.int64],
    targets: Sequence[Target],
) -> list[int]:
    """`needed`, with one more replica in each stage that misses a target when the day is run whole,
    until none does: near its limit a queue grows over an hour that a shorter run does not show."""
    found = list(needed)
    for _ in range(MOST_RAISES):
        if max(found) >= MAX_REPLICAS:
            break
        result = scheduled_run(found)
        good = [(t, result.good(Slo(**{t.metric: t.bound_s}))) for t in targets]
        short = [
            k
            for k in range(len(found))
            if any(_misses(met[stage == k], t.percentile) for t, met in good)
        ]
        if not short:
            break
        for k in short:
            found[k] += 1
    return found


def _misses(good: NDArray[np.bool_], percentile: float) -> bool:
    """Whether more requests are late than a percentile leaves, and more than one."""
    late = int((~good).sum())
    return late > max(1.0, (1.0 - percentile / 100.0) * len(good))


def _share(good: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    return float(good[of].mean()) if of.any() else 1.0


def _needed(
    group: Group,
    rates: Sequence[float],
    lengths: tuple[Lengths, Lengths],
    targets: Sequence[Target],
    seed: int,
) -> list[int]:
    """Return the fewest replicas for each rate; a higher rate never needs fewer."""
    found: dict[float, int] = {}
    least = 1
    for rate in sorted(set(rates)):
        span = max(PROBE_REQUESTS / rate, PROBE_S)
        trace = draw(in_stages([Stage(rate, span)], *lengths), seed)
        least = found[rate] = _fewest(group, trace, targets, least, seed)
    return [found[rate] for rate in rates]


def _fewest(group: Group, trace: Trace, targets: Sequence[Target], least: int, seed: int) -> int:
    """Search by doubling, then bisection, from `least`."""

    def held(n: int) -> bool:
        sized = replace(group, deployment=group.deployment.with_layout(replicas=n))
        return holds(simulate([sized], trace, seed=seed), targets)

    high = least
    while not held(high):
        if high >= MAX_REPLICAS:
            raise NothingMeetsError(
                f"{trace.request_rate:.3g} requests/s do not hold within the bounds on "
                f"{MAX_REPLICAS} replicas; loosen the bounds, or give each replica more GPUs"
            )
        least, high = high + 1, min(2 * high, MAX_REPLICAS)
    while least < high:
        middle = (least + high) // 2
        least, high = (least, middle) if held(middle) else (middle + 1, high)
    return high


Steps = list[tuple[float, int]]  #: from a time on, so many replicas are paid for


def _scheduled(needed: Sequence[int], stage_s: float, start_up_s: float) -> Steps:
    """Return the replicas of each stage; those of a busier stage start before it begins."""
    steps: Steps = [(0.0, needed[0])]
    for k in range(1, len(needed)):
        ahead = start_up_s if needed[k] > needed[k - 1] else 0.0
        steps.append((max(k * stage_s - ahead, 0.0), needed[k]))
    return steps


def _reactive(trace: Trace, each: float, first: int, most: int, start_up_s: float) -> Steps:
    """Return the replicas for the last minute's arrivals at `each` requests/s per replica; scale
    up at once, down when none of the last minutes needed more."""
    minutes = np.bincount((trace.arrival_s // LOOK_S).astype(np.int64))
    wanted = np.clip(np.ceil(minutes / LOOK_S / each), 1, most).astype(np.int64)
    look_back = max(1, math.ceil((KEEP_S + start_up_s) / LOOK_S))
    steps: Steps = [(0.0, first)]
    for k in range(len(wanted)):
        recent = wanted[max(0, k + 1 - look_back) : k + 1].max()
        if k + 1 < look_back:  # the first replicas are kept too
            recent = max(recent, first)
        if recent != steps[-1][1]:
            steps.append(((k + 1) * LOOK_S, int(recent)))
    return steps


def _paid(steps: Steps, end_s: float) -> float:
    """Return replica-seconds between 0 and `end_s`."""
    times = [min(max(at, 0.0), end_s) for at, _ in steps] + [end_s]
    return sum(
        (later - at) * n for at, later, (_, n) in zip(times[:-1], times[1:], steps, strict=True)
    )


def _run(
    group: Group, trace: Trace, steps: Steps, most: int, start_up_s: float, seed: int
) -> Result:
    """Simulate the trace with the replicas of `steps`; each accepts requests `start_up_s` after
    its start and finishes its requests before it stops."""
    changes = [Change(r, 0.0, up=False) for r in range(steps[0][1], most)]
    for (_, before), (at, now) in pairwise(steps):
        changes += [Change(r, at + start_up_s, up=True) for r in range(before, now)]
        changes += [Change(r, at, up=False) for r in range(now, before)]
    sized = replace(group, deployment=group.deployment.with_layout(replicas=most))
    return simulate([sized], trace, changes=_without_reversals(changes), seed=seed)


def _without_reversals(changes: Sequence[Change]) -> list[Change]:
    """Remove replicas that are stopped before they are ready."""
    kept: list[Change] = []
    for change in changes:  # in order of decision
        if not change.up:
            kept = [
                c
                for c in kept
                if not (c.up and c.replica == change.replica and c.at_s > change.at_s)
            ]
        kept.append(change)
    return kept
