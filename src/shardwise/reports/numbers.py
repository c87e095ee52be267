"""Format numbers: digits, unit, interval, n. All number formatting is here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from shardwise.evidence.record import Interval

MISSING: Final = "–"
SIGNIFICANT_DIGITS: Final = 3
#: unit in code -> (unit shown, factor from shown to code), the largest first
_SCALES: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "s": (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)),
    "bytes": (("GB", 1e9),),
}


class Scale(msgspec.Struct, frozen=True):
    """The display unit of a set of values, and its factor to the values' own unit."""

    unit: str
    factor: float = 1.0


def scale_for(values: Iterable[float | Interval | None], unit: str) -> Scale:
    """Return one scale for all `values` in `unit`, so that they are easy to compare.

    Seconds are shown as s, ms or µs, so that the largest value is at least 1; bytes as GB; other
    units are unchanged.
    """
    sizes = [abs(_value(v)) for v in values if v is not None and math.isfinite(_value(v))]
    scales = _SCALES.get(unit, ((unit, 1.0),))
    largest = max(sizes, default=0.0)
    for shown, factor in scales:
        if largest >= factor:
            return Scale(shown, factor)
    return Scale(*scales[0 if largest == 0 else -1])


def decimals(value: float) -> int:
    """Return the decimals that show `value` to three significant digits; none from 100 up."""
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = int(f"{value:.{SIGNIFICANT_DIGITS - 1}e}".partition("e")[2])  # 9.996 is 1.00e1
    return max(SIGNIFICANT_DIGITS - 1 - exponent, 0)


def number(value: float | None, places: int | None = None) -> str:
    """Format `value` with three significant digits or `places` decimals, grouped thousands; "–"
    for none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.{decimals(value) if places is None else places}f}"


def value_and_bounds(interval: Interval | None, scale: Scale | None = None) -> tuple[str, str]:
    """`("12.3", "(11.0–13.9)")` without a unit; no bounds if the value is exact."""
    if interval is None or not math.isfinite(interval.value):
        return MISSING, ""
    factor = scale.factor if scale else 1.0
    value, lo, hi = interval.value / factor, interval.lo / factor, interval.hi / factor
    places = decimals(value)
    bounds = "" if lo == hi else f"({number(lo, places)}–{number(hi, places)})"
    return number(value, places), bounds


def spread(interval: Interval | None) -> str:
    """`±13%`: the wider side of an interval as a share of its value; "" if exact."""
    if interval is None or interval.lo == interval.hi or not interval.value:
        return ""
    wider = max(interval.hi - interval.value, interval.value - interval.lo)
    share = 100 * wider / abs(interval.value)
    return f"±{share:.{0 if share >= 1 else 1}f}%" if math.isfinite(share) else ""


def point_spread(interval: Interval, places: int = 1) -> str:
    """`±2.5`: the wider side of an interval in the unit of its value; "" if exact."""
    if interval.lo == interval.hi:
        return ""
    wider = max(interval.hi - interval.value, interval.value - interval.lo)
    return f"±{number(wider, 0 if abs(interval.value) >= 100 else places)}"


def quantity(interval: Interval, unit: str) -> str:
    """`12.3 s (80 % interval 11.0–13.9 s, n=40)`: a single number in a sentence."""
    scale = scale_for([interval], unit)
    value, bounds = value_and_bounds(interval, scale)
    about = [f"80 % interval {bounds[1:-1]} {scale.unit}".rstrip()] if bounds else []
    if interval.n:
        about.append(f"n={interval.n}")
    shown = f"{value} {scale.unit}".rstrip()
    return f"{shown} ({', '.join(about)})" if about else shown


def brief(interval: Interval, unit: str) -> str:
    """`12.3 s ±13%`: one of several numbers in a sentence that explains the ± once."""
    scale = scale_for([interval], unit)
    shown = f"{value_and_bounds(interval, scale)[0]} {scale.unit}".rstrip()
    return f"{shown} {spread(interval)}".rstrip()


def percent(value: float | None, places: int = 1, *, signed: bool = True) -> str:
    """`-33.5` (signed) or `31.0`: percent or points; the unit is in the heading.

    From 100 up without decimals.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    places = 0 if abs(round(value, places)) >= 100 else places
    return f"{value:{'+' if signed else ''}z,.{places}f}"


def percent_interval(interval: Interval) -> str:
    """`(-36.0…-31.0)`: the bounds of a change; a dash could be read as a minus."""
    if interval.lo == interval.hi:
        return ""
    return f"({percent(interval.lo)}…{percent(interval.hi)})"


def _value(value: float | Interval) -> float:
    return value.value if isinstance(value, Interval) else value
