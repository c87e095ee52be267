"""The highest rate that a deployment sustains within percentile bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.simulator.fleet import Group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.trace import Trace
from shardwise.simulator.traffic import Traffic, draw

PRECISION = 0.02  #: of the rate found


class Target(msgspec.Struct, frozen=True):
    """A bound in seconds on a percentile of a latency: Target("ttft_s", 99, 0.5)."""

    metric: str
    percentile: float
    bound_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bound_s < math.inf:
            raise InputError(
                f"{self.metric} bound is {self.bound_s:g} s", "allowed: above 0 and finite"
            )


def holds(result: Result, targets: Iterable[Target], warmup_s: float = 0.0) -> bool:
    """Return whether there is no overload, every request is answered, and every target is met."""
    if result.overloaded or result.outcomes()["done"] < len(result.requests.arrival):
        return False
    return all(
        result.percentiles(t.metric, warmup_s, [t.percentile]).values[t.percentile] <= t.bound_s
        for t in targets
    )


def _bisect(held: Callable[[float], bool], start: float, precision: float = PRECISION) -> float:
    """Return the highest sustainable rate within `precision`, from an initial guess; 0.0 if
    none."""
    low, high, rate = 0.0, math.inf, start
    while high > low * (1 + precision) and start / 4096 < rate < start * 4096:
        if held(rate):
            low = rate
            rate = 1.5 * rate if math.isinf(high) else math.sqrt(low * high)
        else:
            high = rate
            rate = math.sqrt(low * high) if low > 0 else rate / 2
    return low


def highest_rate(
    groups: Sequence[Group],
    traffic: Traffic,
    targets: Sequence[Target] = (),
    *,
    policy: str = "least_loaded",
    warmup_s: float = 0.0,
    seed: int = 0,
    precision: float = PRECISION,
) -> float:
    """Return the highest requests/s that `groups` sustain under traffic of this kind, within
    `precision`; 0.0: none. The search starts at the rate of `traffic`.
    """

    def held(rate: float) -> bool:
        trace = draw(replace(traffic, request_rate=rate), seed)
        return holds(simulate(groups, trace, policy=policy, seed=seed), targets, warmup_s)

    # fewer than a request in the whole run cannot be drawn
    return _bisect(
        lambda rate: rate * traffic.duration_s >= 1 and held(rate), traffic.request_rate, precision
    )


def highest_trace_rate(
    groups: Sequence[Group],
    trace: Trace,
    targets: Sequence[Target] = (),
    *,
    policy: str = "least_loaded",
    seed: int = 0,
) -> float:
    """Return the highest rate for a trace played faster or slower."""
    own = trace.request_rate
    if own == 0:
        return 0.0
    return _bisect(
        lambda rate: holds(
            simulate(groups, trace.faster(rate / own), policy=policy, seed=seed), targets
        ),
        own,
    )
