"""When requests are due in an open loop: Poisson, constant, or as a trace file says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from shardwise.errors import InputError


def poisson(request_rate: float, requests: int, seed: int) -> list[float]:
    """Due times in seconds from the start; gaps exponential with mean 1/request_rate."""
    rng = np.random.default_rng(seed)
    return [float(t) for t in np.cumsum(rng.exponential(1.0 / request_rate, requests))]


def constant(request_rate: float, requests: int) -> list[float]:
    """Due times in seconds from the start, evenly 1/request_rate apart."""
    return [i / request_rate for i in range(requests)]


def from_trace(path: Path, requests: int = 0) -> list[float]:
    """Due times of a trace: a line each, seconds or JSON with `timestamp` in milliseconds.

    The JSON form is that of the Mooncake traces. Times are shifted to begin at 0. `requests`
    limits how many; 0: all. Raises InputError naming the line.
    """
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the trace {path}: {error}") from None
    times = [_due(path, number, line) for number, line in enumerate(lines, start=1)]
    times = sorted(times)[: requests or None]
    if not times:
        raise InputError(f"the trace {path} is empty", "allowed: a time in seconds a line")
    return [t - times[0] for t in times]


def _due(path: Path, number: int, line: str) -> float:
    try:
        if line.lstrip().startswith("{"):
            return float(json.loads(line)["timestamp"]) / 1e3
        return float(line.split(",", maxsplit=1)[0])
    except (ValueError, KeyError, TypeError):
        allowed = 'a time in seconds, or {"timestamp": milliseconds}'
        raise InputError(f"{path} line {number}: {line[:60]!r}", f"allowed: {allowed}") from None
