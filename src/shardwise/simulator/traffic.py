"""What is asked, when: arrivals and lengths, drawn from a seed or read from a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from shardwise.errors import InputError
from shardwise.simulator.state import Floats, Ints

Arrivals = Literal["poisson", "bursty", "constant"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "bursty", "constant")
MAX_REQUESTS = 20_000_000
NO_PREFIX = -1


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival, arrays of one length N. Times in seconds from the start."""

    arrival_s: Floats
    isl: Ints
    osl: Ints
    model: Ints  #: index into `models`
    prefix: Ints  #: index into `prefix_tokens`, -1: shares nothing
    prefix_tokens: Ints  #: [P]
    models: tuple[str, ...] = ("",)  #: "": the only model deployed

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def request_rate(self) -> float:
        """Mean requests/s; 0 if all arrive at once."""
        span = float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span if span > 0 else 0.0

    def faster(self, factor: float) -> Trace:
        """The same requests, `factor` times as often."""
        return replace(self, arrival_s=self.arrival_s / factor)


def make_trace(arrival_s: Floats, isl: Ints, osl: Ints) -> Trace:
    """A trace of one model whose requests share nothing."""
    n = len(arrival_s)
    if n == 0:
        raise InputError("0 requests", "needed: at least 1", "raise the rate or the duration")
    return Trace(
        np.asarray(arrival_s, dtype=np.float64),
        np.asarray(isl, dtype=np.int64),
        np.asarray(osl, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.full(n, NO_PREFIX, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    )


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
            prefix=label_rng.integers(0, traffic.prefixes, n),
            prefix_tokens=np.full(traffic.prefixes, traffic.prefix_tokens, dtype=np.int64),
        )
    return trace


def model_indices(trace: Trace, models: Sequence[str]) -> Ints:
    """The trace's model of each request as an index into `models`. InputError if one is absent."""
    if trace.models == ("",):
        return np.zeros(len(trace), dtype=np.int64)
    for name in trace.models:
        if name not in models:
            raise InputError(f"the trace asks for model {name!r}", f"deployed: {', '.join(models)}")
    return np.array([models.index(name) for name in trace.models], dtype=np.int64)[trace.model]
