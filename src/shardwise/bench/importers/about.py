"""Shared parts of importers, and data missing in imported files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from shardwise.bench.statistics import t90
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval, Kind, Source
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.workload.workload import Mode, Workload


class About(msgspec.Struct, frozen=True):
    """The deployment of an imported file as given by the user; "" and 0: as in the file."""

    model: str = ""
    gpu: str = ""
    engine: str = ""
    tp_size: int = 0
    weight_dtype: str = ""
    isl: float = 0.0
    osl: float = 0.0


class Found(msgspec.Struct, frozen=True):
    """One result of a file with converted metrics. Times in seconds."""

    tool: str
    metrics: Mapping[str, Interval]
    isl: float
    osl: float
    concurrency: int
    mode: Mode = "closed_loop"
    request_rate: float | None = None
    requests: int = 0
    model: str = ""
    gpu: str = ""
    engine: str = ""
    tp_size: int = 0
    weight_dtype: str = ""
    date: str = ""
    notes: tuple[str, ...] = ()
    kind: Kind = "measured"


def evidence(found: Found, about: About) -> Evidence:
    """Return `found` with the user's data, which takes precedence. InputError if lengths are
    unknown."""
    isl, osl = about.isl or found.isl, about.osl or found.osl
    if not (isl > 0 and osl > 0):
        raise InputError(f"{found.tool} file without lengths", remedy="pass --isl and --osl")
    _require_finite(found)
    return Evidence(
        Deployment(
            model=about.model or found.model or "unknown",
            gpu=about.gpu or found.gpu or "unknown",
            layout=Layout(tp_size=about.tp_size or found.tp_size or 1),
            dtypes=Dtypes(weight=about.weight_dtype or found.weight_dtype or "auto"),
            engine=about.engine or found.engine or "unknown",
        ),
        Workload(
            isl,
            osl,
            found.concurrency,
            found.mode,
            request_rate=found.request_rate,
            requests=found.requests if found.mode == "closed_loop" else 0,
        ),
        dict(found.metrics),
        Source(found.kind, found.tool, found.date, "; ".join(found.notes)),
    )


def _require_finite(found: Found) -> None:
    """Raise InputError naming a metric that is not a number above 0."""
    for name, interval in found.metrics.items():
        if not all(0.0 < bound < math.inf for bound in (interval.value, interval.lo, interval.hi)):
            raise InputError(f"{name} is {interval.value:g}", "allowed: a number above 0")


def from_moments(mean: float, deviation: float, n: int) -> Interval:
    """Return the 80 % interval of a mean from its standard deviation; a bare value if n is too
    small."""
    if n < 2 or not math.isfinite(deviation) or deviation < 0:
        return Interval(mean, mean, mean, n)
    half = t90(n - 1) * deviation / math.sqrt(n)
    low = mean - half if half < mean else mean / (1.0 + half / mean)
    return Interval(mean, low, mean + half, n)


def exactly(value: float, n: int) -> Interval:
    """Return a value without an interval."""
    return Interval(value, value, value, n)


def number(document: Mapping[str, Any], *path: str) -> float:
    """Return the number at `path`. InputError if it is missing or not a number."""
    at: Any = document
    for name in path:
        at = at.get(name) if isinstance(at, Mapping) else None
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise InputError(f"{'.'.join(path)} is {at!r}"[:120], "needed: a number")
    return float(at)
