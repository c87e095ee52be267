"""Plausibility checks of hardware values. Most implausible values are in a wrong unit."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from shardwise.errors import InputError
from shardwise.units import UNITS, to_si


class Quantity(msgspec.Struct, frozen=True):
    """A quantity (a kind in `units.UNITS`) and its plausible range in SI units."""

    measures: str
    low: float
    high: float


#: From a single CPU core or a small link to ten times the largest announced accelerator (2026).
QUANTITIES: Final = {
    "memory": Quantity("bytes", 64e6, 10e12),
    "cache": Quantity("bytes", 1e3, 100e9),
    "memory bandwidth": Quantity("bytes_per_s", 100e6, 500e12),
    "matrix rate": Quantity("flops", 100e6, 500e15),
    "link bandwidth": Quantity("bytes_per_s", 1e6, 50e12),
    "power": Quantity("watts", 1.0, 20e3),
    "compute units": Quantity("count", 1.0, 10e3),
    "latency": Quantity("seconds", 1e-8, 60.0),
    "price": Quantity("usd_per_hour", 1e-4, 10e3),
}
#: FLOP per byte of memory traffic at peak. Accelerators have 24 (fp32 of a V100) to 2,100 (fp4 of
#: announced ones); a rate in the wrong unit is off by 1,000.
INTENSITY: Final = (2.0, 10_000.0)
#: Driver's memory by nameplate: 0.8 where ECC takes a part of GDDR, 1.074 where GB means GiB.
DRIVER_SHARE: Final = (0.75, 1.08)


def in_si(value: float, unit: str, quantity: str, where: str) -> float:
    """Return `value` in SI units.

    Raises:
        InputError: Not a positive number, a unit of another quantity, or out of the range of
            `quantity` (a key of QUANTITIES).
    """
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{where}: value {value:g}", "allowed: a number above 0")
    kind = QUANTITIES[quantity]
    found = to_si(value, unit, kind.measures, where)
    if not kind.low <= found <= kind.high:
        factor = UNITS[unit][1]
        low, high = kind.low / factor, kind.high / factor
        raise InputError(
            f"{where}: {value:g} {unit} is not a plausible {quantity}",
            f"plausible: {low:g} to {high:g} {unit}",
            "check value and unit",
        )
    return found


def check_rates(flops: dict[str, float], memory_bandwidth: float, where: str) -> None:
    """Raise InputError for a matrix rate that is implausible at this memory bandwidth."""
    low, high = INTENSITY
    for dtype, rate in flops.items():
        if not low <= rate / memory_bandwidth <= high:
            raise InputError(
                f"{where}.flops.{dtype}: {rate / 1e12:g} TFLOPS with a memory bandwidth of "
                f"{memory_bandwidth / 1e12:g} TB/s",
                f"plausible: {low * memory_bandwidth / 1e12:g} to "
                f"{high * memory_bandwidth / 1e12:g} TFLOPS",
                "check the units of both",
            )


def check_memory(nameplate: float, driver: float, runtime: float, where: str) -> None:
    """Raise InputError if the software-visible memory is implausible for the nameplate value."""
    low, high = DRIVER_SHARE
    for key, found, most in (
        ("usable_memory", driver, high * nameplate),
        ("runtime_memory", runtime or driver, driver),
    ):
        if not low * nameplate <= found <= most:
            raise InputError(
                f"{where}.{key}: {found / 1e9:.6g} GB of a memory of {nameplate / 1e9:g} GB",
                f"plausible: {low * nameplate / 1e9:g} to {most / 1e9:g} GB",
                "check the units of both",
            )
