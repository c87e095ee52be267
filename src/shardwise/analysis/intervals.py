"""The interval of a ratio of two results.

Relative errors are what is known of a prediction or a run, so the arithmetic is on logarithms.
With u and l the upper and lower log-widths of an interval, the ratio after/before has

    upper = sqrt(u_after^2 + l_before^2 - 2 rho u_after l_before)
    lower = sqrt(l_after^2 + u_before^2 - 2 rho l_after u_before)

(method of variance estimates recovery for asymmetric intervals: Donner and Zou, Statistical
Methods in Medical Research 21(4), 2012, equation for a difference, here of logarithms).

`rho` is the correlation of the two relative errors. Measured results come from separate runs:
rho = 0. Predictions of neighbouring TPs share the model, profile and most of their error: rho
near 1, and a step is then known far better than either of its cells.
"""

from __future__ import annotations

import math

from shardwise.errors import InputError
from shardwise.evidence.record import Interval


def ratio(after: Interval, before: Interval, rho: float = 0.0) -> Interval:
    """`after / before` with its interval; n is the smaller of the two. All bounds above 0.

    Raises InputError for a correlation outside 0 to 1.
    """
    if not 0.0 <= rho <= 1.0:
        raise InputError(f"error correlation rho is {rho:g}", "allowed: 0 to 1")
    value = after.value / before.value
    lower_after, upper_after = _log_widths(after)
    lower_before, upper_before = _log_widths(before)
    upper = _difference(upper_after, lower_before, rho)
    lower = _difference(lower_after, upper_before, rho)
    n = min(after.n, before.n)
    return Interval(value, value * math.exp(-lower), value * math.exp(upper), n)


def scaled(interval: Interval, factor: float) -> Interval:
    """`interval` times an exactly known positive factor."""
    return Interval(interval.value * factor, interval.lo * factor, interval.hi * factor, interval.n)


def reciprocal(interval: Interval) -> Interval:
    """1 / `interval`, all above 0."""
    return Interval(1 / interval.value, 1 / interval.hi, 1 / interval.lo, interval.n)


def as_percent_change(change: Interval) -> Interval:
    """A ratio after/before as a change in percent."""
    return Interval(
        (change.value - 1) * 100, (change.lo - 1) * 100, (change.hi - 1) * 100, change.n
    )


def _log_widths(interval: Interval) -> tuple[float, float]:
    return math.log(interval.value / interval.lo), math.log(interval.hi / interval.value)


def _difference(a: float, b: float, rho: float) -> float:
    return math.sqrt(max(a * a + b * b - 2 * rho * a * b, 0.0))
