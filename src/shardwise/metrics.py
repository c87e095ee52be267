"""Definitions of the serving metrics, for predicted, simulated, measured and published results.

docs/metrics.md shows the formulas. Times in seconds, rates per second.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """A metric's name in code and JSON, its unit, formula, and whether lower is better."""

    name: str
    label: str
    unit: str
    formula: str
    lower_is_better: bool


TTFT: Final = Metric("ttft_s", "TTFT", "s", "first non-empty token received - request sent", True)
E2E: Final = Metric("e2e_latency_s", "E2E latency", "s", "last token - request sent", True)
TPOT: Final = Metric(
    "tpot_s", "TPOT", "s", "(e2e_latency_s - ttft_s) / (osl - 1), undefined for osl < 2", True
)
OUTPUT_THROUGHPUT: Final = Metric(
    "output_tok_s", "output throughput", "tok/s", "output tokens / duration, per instance", False
)
TOTAL_THROUGHPUT: Final = Metric(
    "total_tok_s", "total throughput", "tok/s", "(input + output tokens) / duration", False
)
COST: Final = Metric(
    "usd_per_million_output_tok",
    "cost",
    "USD/Mtok",
    "USD per hour of all GPUs paid for / output tokens per hour * 1e6",
    True,
)
GPU_HOURS: Final = Metric(
    "gpu_hours_per_million_output_tok",
    "GPU time",
    "GPU-h/Mtok",
    "GPUs paid for / output tokens per hour * 1e6: the cost where no price is given",
    True,
)
GOODPUT: Final = Metric(
    "goodput", "goodput", "requests/s", "requests that meet every SLO named / duration", False
)
GOOD_COST: Final = Metric(
    "usd_per_million_good_tok",
    "cost of good tokens",
    "USD/Mtok",
    "USD per hour of all GPUs paid for / output tokens per hour of requests within the SLO * 1e6",
    True,
)
REQUEST_RATE: Final = Metric(
    "request_rate_held",
    "rate held",
    "requests/s",
    "the most arrivals/s that are all answered within the SLO, the queue not growing",
    False,
)
RECOVERY: Final = Metric(
    "recovery_s", "recovery", "s", "first failure to the TTFT from before it being back", True
)
ALL: Final = {
    m.name: m
    for m in (
        *(TTFT, TPOT, E2E, OUTPUT_THROUGHPUT, TOTAL_THROUGHPUT, COST, GPU_HOURS),
        *(GOODPUT, GOOD_COST, REQUEST_RATE, RECOVERY),
    )
}


def percentile_name(metric: str, percentile: float) -> str:
    """Return the key of a percentile of a metric in seconds: ttft_s, 99 -> ttft_p99_s."""
    return f"{metric.removesuffix('_s')}_p{percentile:g}_s"


def tpot_s(e2e_latency_s: float, ttft_s: float, osl: float) -> float:
    """Return the time per output token after the first, in seconds; NaN for osl < 2."""
    return (e2e_latency_s - ttft_s) / (osl - 1) if osl >= 2 else float("nan")


def usd_per_million_tok(usd_per_hour: float, tok_per_s: float) -> float:
    """Return USD per million tokens, from the total `usd_per_hour` and `tok_per_s`."""
    return usd_per_hour / (tok_per_s * 3600.0) * 1e6


def usd_per_hour(usd_per_million: float, tok_per_s: float) -> float:
    """Return the total USD per hour: the inverse of `usd_per_million_tok`."""
    return usd_per_million * (tok_per_s * 3600.0) / 1e6


def percent_change(before: float, after: float) -> float:
    """Return the change from `before` to `after` in percent: (after / before - 1) * 100."""
    return (after / before - 1.0) * 100.0
