"""Random traffic: a rate or stages of rates, lengths, shared prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.simulator.trace import (
    MAX_REQUESTS,
    Floats,
    Ints,
    Trace,
    make_trace,
    one_prefix,
)

Arrivals = Literal["poisson", "bursty", "constant"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "bursty", "constant")
MAX_STAGES = 10_000
LIMITING_ROUNDS = 20


class Lengths(msgspec.Struct, frozen=True):
    """Token counts with a mean: all equal (cv 0), or log-normal with a coefficient of variation.

    With `most`, longer lengths are limited to it, and the others are scaled up to keep the mean.
    """

    mean: float
    cv: float = 0.0
    most: float = 0.0  #: tokens; 0: no limit

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= 10_000_000:
            raise InputError(f"a mean length of {self.mean:g} tokens", "allowed: 1 to 10000000")
        if not 0 <= self.cv <= 10:
            raise InputError(f"a length variation of {self.cv:g}", "allowed: 0 to 10")
        if self.most and not self.most >= self.mean:
            raise InputError(
                f"lengths of at most {self.most:g} tokens", f"allowed: their mean, {self.mean:g}"
            )

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw `n` lengths in tokens."""
        if self.cv == 0:
            return np.full(n, round(self.mean), dtype=np.int64)
        drawn = log_normal(rng, self.mean, self.cv, n)
        if self.most and n:
            drawn = _limited(drawn, self.most)
        return np.maximum(1, np.rint(drawn)).astype(np.int64)

    def draw_evenly(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw `n` lengths in tokens with their mean.

        One is from each of `n` equal parts of the distribution, in random order.
        """
        if self.cv == 0:
            return np.full(n, round(self.mean), dtype=np.int64)
        normal = NormalDist()
        points = (np.arange(n) + np.clip(rng.random(n), 1e-6, 1.0 - 1e-6)) / n
        spread = np.exp(_sigma(self.cv) * np.array([normal.inv_cdf(p) for p in points.tolist()]))
        values = self.mean / spread.mean() * spread
        if self.most:
            values = _limited(values, self.most)
        return rng.permutation(np.maximum(1, np.rint(values)).astype(np.int64))


def _sigma(cv: float) -> float:
    """Return the standard deviation of the logarithm of log-normal values."""
    return math.sqrt(math.log1p(cv**2))


def _limited(values: Floats, most: float) -> Floats:
    """Limit `values` to `most`, scaled to keep their mean if possible."""
    mean, scale = min(float(values.mean()), most), 1.0
    for _ in range(LIMITING_ROUNDS):
        limited = np.minimum(scale * values, most)
        scale *= mean / float(limited.mean())
    return np.asarray(np.minimum(scale * values, most))


def lengths_within(isl: float, osl: float, cv: float, context: float) -> tuple[Lengths, Lengths]:
    """Return prompt and answer lengths with no request longer than `context` tokens.

    Each is limited to its share of the context, unless the mean request is already longer.
    """
    unlimited = Lengths(isl, cv), Lengths(osl, cv)
    share = math.floor(context) / (isl + osl)
    if cv == 0 or share < 1.0:
        return unlimited
    first, second = (Lengths(x, cv, max(x, math.floor(share * x))) for x in (isl, osl))
    return first, second


def log_normal(rng: np.random.Generator, mean: float, cv: float, n: int) -> Floats:
    """Draw `n` values with a mean and a coefficient of variation."""
    sigma = _sigma(cv)
    return rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, n)


def require_prompts(prefixes: int, prefix_tokens: int) -> None:
    """Raise InputError for an impossible number or length of system prompts."""
    least = 1 if prefix_tokens else 0
    if not (prefixes >= least and 0 <= prefix_tokens <= 10_000_000):
        raise InputError(
            f"{prefixes} system prompts of {prefix_tokens} tokens",
            "allowed: 1 or more, of 0 to 10000000 tokens",
        )


class Stage(msgspec.Struct, frozen=True):
    """A period at one rate."""

    request_rate: float
    duration_s: float


class Traffic(msgspec.Struct, frozen=True):
    """Random open-loop traffic: a rate, its variation, lengths, and shared prefixes.

    `bursty`: gamma gaps with coefficient of variation `burstiness`. `prefixes` prompts' beginnings
    of `prefix_tokens` each, chosen evenly, are prepended to isl. With `stages` the rate changes
    from one to the next; their mean is scaled to `request_rate` (see `in_stages`).
    """

    request_rate: float
    isl: Lengths
    osl: Lengths
    duration_s: float = 600.0
    arrivals: Arrivals = "poisson"
    burstiness: float = 2.0
    prefixes: int = 0
    prefix_tokens: int = 0
    models: tuple[str, ...] = msgspec.field(default=("",))  #: asked evenly
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for rate, duration_s in (
            (self.request_rate, self.duration_s),
            *((stage.request_rate, stage.duration_s) for stage in self.stages),
        ):
            if not 0 < rate < 1e9:
                raise InputError(
                    f"request_rate is {rate:g}", "allowed: above 0, below 1e9 requests/s"
                )
            if not 0 < duration_s < 1e9:
                raise InputError(f"duration is {duration_s:g} s", "allowed: above 0, below 1e9")
        if self.arrivals not in ARRIVALS:
            raise InputError(f"arrivals {self.arrivals!r}", f"allowed: {', '.join(ARRIVALS)}")
        if not 0 < self.burstiness <= 100:
            raise InputError(f"burstiness is {self.burstiness:g}", "allowed: above 0, up to 100")
        require_prompts(self.prefixes, self.prefix_tokens)
        if len(self.stages) > MAX_STAGES:
            raise InputError(f"{len(self.stages)} stages", f"allowed: up to {MAX_STAGES}")
        if self.request_rate * self.duration_s > MAX_REQUESTS:
            raise InputError(
                f"{self.request_rate * self.duration_s:.3g} requests",
                f"allowed: up to {MAX_REQUESTS:,}",
                "shorten the duration",
            )

    def within(self, context: int) -> Traffic:
        """Limit requests to `context` tokens, including the system prompt."""
        own = max(1, context - (self.prefix_tokens if self.prefixes else 0))
        cv = max(self.isl.cv, self.osl.cv)
        isl, osl = lengths_within(self.isl.mean, self.osl.mean, cv, own)
        return replace(self, isl=replace(isl, cv=self.isl.cv), osl=replace(osl, cv=self.osl.cv))


def in_stages(stages: Sequence[Stage], isl: Lengths, osl: Lengths, **more: Any) -> Traffic:
    """Return traffic with the rate of each stage in turn."""
    if not stages:
        raise InputError("0 stages", "needed: at least 1")
    duration_s = sum(stage.duration_s for stage in stages)
    if not duration_s > 0:
        raise InputError(f"stages of {duration_s:g} s in all", "needed: above 0")
    rate = sum(stage.request_rate * stage.duration_s for stage in stages) / duration_s
    return Traffic(rate, isl, osl, duration_s, stages=tuple(stages), **more)


def draw(traffic: Traffic, seed: int = 0) -> Trace:
    """Draw a trace of the traffic; the same seed gives the same trace.

    At another rate, the same seed gives the same requests with scaled gaps.
    """
    gaps_rng, isl_rng, osl_rng, label_rng = (
        np.random.default_rng([seed, stream]) for stream in range(4)
    )
    arrival_s = draw_arrivals(traffic, gaps_rng)
    n = len(arrival_s)
    trace = make_trace(arrival_s, traffic.isl.draw(isl_rng, n), traffic.osl.draw(osl_rng, n))
    if len(traffic.models) > 1:
        models = label_rng.integers(0, len(traffic.models), n)
        trace = replace(trace, model=models, models=traffic.models)
    return with_prefixes(trace, traffic.prefixes, traffic.prefix_tokens, label_rng)


def with_prefixes(trace: Trace, prefixes: int, tokens: int, rng: np.random.Generator) -> Trace:
    """Prepend one of `prefixes` shared beginnings of `tokens` tokens to each prompt."""
    if not (prefixes and tokens):
        return trace
    chosen = rng.integers(0, prefixes, len(trace))
    shared = one_prefix(chosen, np.full(prefixes, tokens, dtype=np.int64))
    return replace(trace, isl=trace.isl + tokens, shared=shared)


def draw_arrivals(traffic: Traffic, rng: np.random.Generator) -> Floats:
    """Draw arrival times in order, stage by stage."""
    stages = traffic.stages or (Stage(traffic.request_rate, traffic.duration_s),)
    offered = sum(stage.request_rate * stage.duration_s for stage in stages)
    scale = traffic.request_rate * traffic.duration_s / offered
    times, start = [], 0.0
    for stage in stages:
        rate = stage.request_rate * scale
        gaps = draw_gaps(traffic, rng, round(rate * stage.duration_s))
        times.append(start + np.cumsum(gaps) / rate)
        start += stage.duration_s
    return np.sort(np.concatenate(times))


def draw_gaps(traffic: Traffic, rng: np.random.Generator, n: int) -> Floats:
    """Draw `n` gaps between arrivals with a mean of 1."""
    if traffic.arrivals == "constant":
        return np.ones(n)
    if traffic.arrivals == "poisson":
        return rng.exponential(1.0, n)
    shape = 1.0 / traffic.burstiness**2
    return rng.gamma(shape, 1.0 / shape, n)
