"""Peak rates of this machine, measured: copy bandwidth and matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import torch

from shardwise.engine.layers import Linear

COPY_BYTES = 256 * 2**20  #: far above any last-level cache
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}


class PeakRates(msgspec.Struct, frozen=True):
    """Best rates of one rank with its threads; each the best of `n` runs."""

    copy_bytes_per_s: float  #: bytes read plus bytes written
    matrix_flops: float  #: dense, in the dtype measured
    n: int


def seconds(work: Callable[[], object], device: torch.device, n: int) -> list[float]:
    """Durations of `n` runs of `work`, after one that is not counted."""
    work()
    times = []
    for _ in range(n):
        _settle(device)
        start = time.perf_counter()
        work()
        _settle(device)
        times.append(time.perf_counter() - start)
    return times


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(dtype: torch.dtype, device: torch.device, n: int = 5) -> PeakRates:
    """The peak_rates in `dtype`, with the threads torch has now."""
    return PeakRates(copy_rate(device, n), matrix_rate(dtype, device, n), n)


def copy_rate(device: torch.device, n: int) -> float:
    """Bytes/s, read and written."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source), device, n))


def read_rate(device: torch.device, n: int) -> float:
    """Bytes/s, read only, as weights are: a sum."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    return COPY_BYTES / min(seconds(source.sum, device, n))


def matrix_rate(dtype: torch.dtype, device: torch.device, n: int) -> float:
    """FLOP/s of a square product, by the same packed kernel the layers use: on AMD cores
    torch.matmul reaches less than half of it in fp32, which would flatter the layers."""
    size = MATRIX_SIZE[device.type]
    square = torch.randn(size, size, device=device).to(dtype)
    linear = Linear(square)
    return 2 * size**3 / min(seconds(lambda: linear(square), device, n))
