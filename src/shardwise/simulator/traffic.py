"""Traffic to draw from a seed: a rate or stages of rates, lengths, shared beginnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.trace import MAX_REQUESTS, Ints, Trace, make_trace, one_prefix

Arrivals = Literal["poisson", "bursty", "constant"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "bursty", "constant")


@dataclass(frozen=True)
class Lengths:
    """Token counts with a mean: all equal (cv 0), or log-normal with a coefficient of variation."""

    mean: float
    cv: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= 10_000_000:
            raise InputError(f"a mean length of {self.mean:g} tokens", "allowed: 1 to 10000000")
        if not 0 <= self.cv <= 10:
            raise InputError(f"a length variation of {self.cv:g}", "allowed: 0 to 10")

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        if self.cv == 0:
            return np.full(n, round(self.mean), dtype=np.int64)
        sigma = math.sqrt(math.log1p(self.cv**2))
        drawn = rng.lognormal(math.log(self.mean) - sigma**2 / 2, sigma, n)
        return np.maximum(1, np.rint(drawn)).astype(np.int64)


@dataclass(frozen=True)
class Traffic:
    """Open-loop traffic to draw: a rate, how it varies, lengths, and shared prefixes.

    `bursty`: gamma gaps with coefficient of variation `burstiness`. `prefixes` prompts' beginnings
    of `prefix_tokens` each, chosen evenly, are prepended to isl.
    """

    request_rate: float
    isl: Lengths
    osl: Lengths
    duration_s: float = 600.0
    arrivals: Arrivals = "poisson"
    burstiness: float = 2.0
    prefixes: int = 0
    prefix_tokens: int = 0
    models: tuple[str, ...] = field(default=("",))  #: asked evenly

    def __post_init__(self) -> None:
        if not 0 < self.request_rate < 1e9:
            raise InputError(
                f"request_rate is {self.request_rate:g}", "allowed: above 0 requests/s"
            )
        if not 0 < self.duration_s < 1e9:
            raise InputError(f"duration is {self.duration_s:g} s", "allowed: above 0")
        if self.arrivals not in ARRIVALS:
            raise InputError(f"arrivals {self.arrivals!r}", f"allowed: {', '.join(ARRIVALS)}")
        if not 0 < self.burstiness <= 100:
            raise InputError(f"burstiness is {self.burstiness:g}", "allowed: above 0, up to 100")
        if self.request_rate * self.duration_s > MAX_REQUESTS:
            raise InputError(
                f"{self.request_rate * self.duration_s:.3g} requests",
                f"allowed: up to {MAX_REQUESTS:,}",
                "shorten the duration",
            )


def draw(traffic: Traffic, seed: int = 0) -> Trace:
    """A trace of the traffic; the same seed gives the same trace.

    At another rate the same seed gives the same requests, closer together or further apart.
    """
    n = round(traffic.request_rate * traffic.duration_s)
    gaps_rng, isl_rng, osl_rng, label_rng = (
        np.random.default_rng([seed, stream]) for stream in range(4)
    )
    if traffic.arrivals == "constant":
        gaps = np.ones(n)
    elif traffic.arrivals == "poisson":
        gaps = gaps_rng.exponential(1.0, n)
    else:
        shape = 1.0 / traffic.burstiness**2
        gaps = gaps_rng.gamma(shape, 1.0 / shape, n)
    trace = make_trace(
        np.cumsum(gaps) / traffic.request_rate,
        traffic.isl.draw(isl_rng, n),
        traffic.osl.draw(osl_rng, n),
    )
    if len(traffic.models) > 1:
        models = label_rng.integers(0, len(traffic.models), n)
        trace = replace(trace, model=models, models=traffic.models)
    if traffic.prefixes and traffic.prefix_tokens:
        trace = replace(
            trace,
            isl=trace.isl + traffic.prefix_tokens,
            shared=one_prefix(
                label_rng.integers(0, traffic.prefixes, n),
                np.full(traffic.prefixes, traffic.prefix_tokens, dtype=np.int64),
            ),
        )
    return trace
