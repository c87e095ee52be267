"""Units: SI internally, with conversion at the edges.

A catalogue value is written with its unit (`"TB/s"`, `"GiB"`, `"TFLOPS"`) and converted here once.
"""

from __future__ import annotations

from typing import Final

from shardwise.errors import InputError

US: Final = 1e-6
MS: Final = 1e-3
KB: Final = 1e3
MB: Final = 1e6
GB: Final = 1e9
MIB: Final = 2**20
GIB: Final = 2.0**30
HOUR_S: Final = 3600.0

#: unit -> (what it measures, factor to SI)
UNITS: Final[dict[str, tuple[str, float]]] = {
    "B": ("bytes", 1.0),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "TB": ("bytes", 1e12),
    "MiB": ("bytes", 2.0**20),
    "GiB": ("bytes", 2.0**30),
    "GB/s": ("bytes_per_s", 1e9),
    "TB/s": ("bytes_per_s", 1e12),
    "GFLOPS": ("flops", 1e9),
    "TFLOPS": ("flops", 1e12),
    "PFLOPS": ("flops", 1e15),
    "us": ("seconds", 1e-6),
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
    "W": ("watts", 1.0),
    "USD/h": ("usd_per_hour", 1.0),
    "1": ("count", 1.0),
}


def to_si(value: float, unit: str, measures: str, where: str) -> float:
    """Convert `value` in `unit` to SI. `measures` is the expected quantity, `where` names the
    input.

    Raises InputError for an unknown unit or one of another quantity.
    """
    kind, factor = UNITS.get(unit, ("", 0.0))
    if kind != measures:
        allowed = ", ".join(name for name, (kind, _) in UNITS.items() if kind == measures)
        raise InputError(f"{where}: unit {unit!r}", f"allowed: {allowed}")
    return value * factor
