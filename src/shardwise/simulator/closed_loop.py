"""Closed loops: a fixed number of clients, each of which sends a request when its last one ends.

The results cover the requests that the clients send first, and further requests keep all clients
busy until the last of these has been answered. So every counted request meets a full loop, and none
is left out because it is long or counted because it is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.evidence import Simulated, thrice
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.results import Result
from shardwise.simulator.simulate import simulate
from shardwise.simulator.state import ISSUED
from shardwise.simulator.trace import MAX_REQUESTS, Ints, Trace, make_trace
from shardwise.simulator.traffic import Lengths, Traffic, with_prefixes

WAVES: Final = 10  #: requests of each client, if no duration is given
FURTHER_WAVES: Final = 10  #: the same, of the first guess how many keep the loop full afterwards
MOST_EVEN: Final = 10_000  #: requests of a block with the mean lengths


class ClosedLoop(msgspec.Struct, frozen=True):
    """`concurrency` clients with `WAVES` requests each, or as many as they send in `duration_s`."""

    concurrency: int
    requests: Callable[[int], Trace]  #: returns so many; the first of more are the same
    duration_s: float | None = None

    def run(
        self,
        groups: Sequence[Group],
        *,
        policy: str = "least_loaded",
        failures: Sequence[Failure] = (),
        seed: int = 0,
    ) -> Result:
        """Run with enough requests to keep all clients busy. InputError if these are too many."""
        counted = None if self.duration_s is not None else WAVES * self.concurrency
        n = (WAVES + FURTHER_WAVES) * self.concurrency
        until_s = math.inf if self.duration_s is None else self.duration_s
        while n <= MAX_REQUESTS:
            result = simulate(
                groups, self.requests(n), policy=policy, concurrency=self.concurrency,
                counted=counted, until_s=until_s, failures=failures, seed=seed,
            )  # fmt: skip
            if result.loop.counts[ISSUED] < n or result.end_s <= 0:  # all rejected at once
                return result
            missing = 1.0 if self.duration_s is None else self.duration_s / result.end_s
            n = math.ceil(n * max(2.0, 1.2 * missing))
        raise InputError(
            f"more than {MAX_REQUESTS:,} requests", "lower the concurrency or the duration"
        )

    def run_thrice(
        self,
        groups: Sequence[Group],
        *,
        policy: str = "least_loaded",
        failures: Sequence[Failure] = (),
        seed: int = 0,
    ) -> Simulated:
        """Run with steps as expected, fast and slow."""
        return thrice(
            groups, lambda some: self.run(some, policy=policy, failures=failures, seed=seed)
        )


def draw_evenly(traffic: Traffic, n: int, block: int, seed: int = 0) -> Trace:
    """Draw `n` requests of the traffic, without times. Every `block` of them has the mean lengths.

    Independent lengths would give a run of 400 requests a mean that is 5 % off (one standard
    deviation, with a coefficient of variation of 1), and its latency with it.
    """
    block = min(block, MOST_EVEN)

    def drawn(lengths: Lengths, stream: int) -> Ints:
        rng = np.random.default_rng([seed, stream])
        return np.concatenate([lengths.draw_evenly(rng, block) for _ in range(-(-n // block))])[:n]

    trace = make_trace(np.zeros(n), drawn(traffic.isl, 1), drawn(traffic.osl, 2))
    labels = np.random.default_rng([seed, 3])
    return with_prefixes(trace, traffic.prefixes, traffic.prefix_tokens, labels)
