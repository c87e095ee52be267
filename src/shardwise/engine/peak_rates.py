"""Peak rates of this machine, measured: copy bandwidth and matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import torch

from shardwise.engine.layers import Linear

COPY_BYTES = 256 * 2**20  #: much larger than any last-level cache
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
LEAST_RUNS = 3  #: assumed enough for the best of them
ENOUGH_S = 3.0  #: assumed; after this time, no run begins beyond the least


class PeakRates(msgspec.Struct, frozen=True):
    """Peak rates of one rank with its threads, each from the best of up to `n` runs."""

    copy_bytes_per_s: float  #: bytes read plus bytes written
    matrix_flops: float  #: dense, in the dtype measured
    n: int


def seconds(work: Callable[[], object], device: torch.device, n: int) -> list[float]:
    """Return the durations of up to `n` runs of `work`, after a warm-up run."""
    work()
    times: list[float] = []
    while len(times) < n and (len(times) < LEAST_RUNS or sum(times) < ENOUGH_S):
        settle(device)
        start = time.perf_counter()
        work()
        settle(device)
        times.append(time.perf_counter() - start)
    return times


def settle(device: torch.device) -> None:
    """Wait until the device has done what was launched on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(dtype: torch.dtype, device: torch.device, n: int = 5) -> PeakRates:
    """Return the peak rates in `dtype` with torch's current threads."""
    return PeakRates(copy_rate(device, n), matrix_rate(dtype, device, n), n)


def copy_rate(device: torch.device, n: int) -> float:
    """Return bytes/s of a copy, read plus written."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source), device, n))


def read_rate(device: torch.device, n: int) -> float:
    """Return bytes/s of a sum, which only reads, as weights are read."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    return COPY_BYTES / min(seconds(source.sum, device, n))


def matrix_rate(dtype: torch.dtype, device: torch.device, n: int) -> float:
    """Return FLOP/s of a square product with the packed kernel of the layers.

    On AMD cores, torch.matmul reaches less than half of it in fp32, so layers would seem to exceed
    the peak.
    """
    size = MATRIX_SIZE[device.type]
    square = torch.randn(size, size, device=device).to(dtype)
    linear = Linear(square)
    return 2 * size**3 / min(seconds(lambda: linear(square), device, n))
