"""Fit all-reduce lines to measured latencies, by GPU, library and world size."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import fields

from shardwise.errors import InputError
from shardwise.files import read_utf8
from shardwise.perfmodel.collectives import AllReduce
from shardwise.perfmodel.profiles import Line
from shardwise.perfmodel.work import Array

#: Lossy kernels (QuickReduce's 8, 6 and 4 bit codecs) are excluded: no engine uses them by default.
_LOSSY: Final = ("QR-FP8", "QR-Q8", "QR-Q6", "QR-Q4")


class LineFit(msgspec.Struct, frozen=True):
    """The lines of one GPU, library and world size, with their error on the fitted points."""

    gpu: str
    library: str
    world_size: int
    lines: AllReduce
    points: int
    mean_error: float  #: mean |predicted / measured - 1|


def _library(kernel: str, vendor_mesh: bool) -> str:
    """On MI300X, engines use the fastest of custom, QuickReduce FP16 and RCCL at each size."""
    if vendor_mesh:
        return "fastest"
    lowered = kernel.lower()
    return next((name for name in ("nccl", "vllm", "sglang") if name in lowered), "")


def read_points(path: Path) -> Mapping[tuple[str, str, int], dict[float, float]]:
    """(gpu, library, world size) -> {message bytes: seconds}, the fastest kernel at each size."""
    try:
        table = csv.DictReader(io.StringIO(read_utf8(path), newline=""))
        rows = [r for r in table if r["op"] == "all_reduce"]
        points: dict[tuple[str, str, int], dict[float, float]] = defaultdict(dict)
        for row in rows:
            if row["kernel"] in _LOSSY:
                continue
            library = _library(row["kernel"], row["gpu"].startswith("mi3"))
            series = points[row["gpu"], library, int(float(row["world_size"]))]
            size, seconds = float(row["size_bytes"]), float(row["latency_us"]) * 1e-6
            series[size] = min(series.get(size, np.inf), seconds)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"cannot read collectives from {path}: {error!r}",
            "needed: columns gpu, op, kernel, world_size, size_bytes, latency_us",
        ) from None
    return points


def _fit_series(size: Array, seconds: Array) -> AllReduce:
    from scipy.optimize import least_squares

    first, slope = seconds[0], seconds[-1] / size[-1]

    def lines(p: Array) -> AllReduce:
        return AllReduce(*np.exp([p[0], -p[1], p[2], -p[3]]).tolist())

    def residuals(p: Array) -> Array:
        return np.asarray(np.log(lines(p).time(size) / seconds))

    best = None
    for early, later in ((10.0, 2.0), (100.0, 3.0)):
        begin = np.log([first, slope * early, first * later, slope])
        found = least_squares(residuals, begin, loss="soft_l1", f_scale=0.05)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return lines(best.x)


def fit_lines(path: Path) -> Iterable[LineFit]:
    """Fit lines to every series of at least eight sizes in a file of all-reduce latencies."""
    for (gpu, library, world), series in sorted(read_points(path).items()):
        if len(series) < 8 or not library:
            continue
        size = np.array(sorted(series))
        seconds = np.array([series[s] for s in size])
        fitted = _fit_series(size, seconds)
        error = float(np.mean(np.abs(fitted.time(size) / seconds - 1.0)))
        yield LineFit(gpu, library, world, fitted, len(size), error)


def line_of(fitted: LineFit) -> Line:
    """Return a fit in the form of a profile, with four digits."""
    values = (getattr(fitted.lines, f.name) for f in fields(AllReduce))
    latency, rate, bulk_latency, bulk_rate = (float(f"{value:.4g}") for value in values)
    return Line(
        fitted.gpu,
        fitted.library,
        fitted.world_size,
        latency,
        rate,
        bulk_latency,
        bulk_rate,
        fitted.points,
        round(100 * fitted.mean_error, 1),
    )
