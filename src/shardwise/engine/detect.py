"""Measure the hardware of a rank: memory bandwidth, matrix rates, all-reduce.

All ranks measure at the same time, because they share memory and power when serving.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from shardwise.engine import peak_rates
from shardwise.engine.rank import TORCH_DTYPES, GroupSpec, Rank
from shardwise.engine.ranks import RankGroup
from shardwise.errors import InputError
from shardwise.hardware.gpu import AllReduceLine
from shardwise.hardware.measured import Measured

DTYPES: Final = ("bf16", "fp32")
MESSAGE_BYTES: Final = tuple(2**k for k in range(10, 25, 2))  #: 1 KB to 16 MB
MAX_CPU_RANKS: Final = 8  #: maximum number of ranks that share the cores
SHORT_N, LONG_N = 3, 7

Device = Literal["auto", "cpu", "cuda"]
Progress = Callable[[str], None]


def detect(
    device: Device, threads_per_rank: int, short: bool, done: Progress, ranks: int = 0
) -> Measured:
    """Measure this machine. `done` is called with the name of each part before it starts.

    `threads_per_rank` 0 divides the cores among at most MAX_CPU_RANKS ranks. `ranks` 0 uses all
    ranks; with fewer, each has more memory bandwidth. Raises InputError for a missing device, or
    for more ranks than available.
    """
    start, n = time.perf_counter(), SHORT_N if short else LONG_N
    load_before = os.getloadavg()[0]
    spec = _spec(device, threads_per_rank, ranks)
    found, spread = [], {}
    for world in worlds(spec.tp_size):
        done(f"{world} of {spec.tp_size} ranks")
        group = RankGroup(_of(spec, world))
        try:
            if world == spec.tp_size:
                found = group.collect(_rates, n)
            if world > 1:
                times = group.collect(_all_reduce_times, n)
                spread[world] = fit_line(MESSAGE_BYTES, np.max(times, axis=0).tolist())
        finally:
            group.close()
    slowest = {key: min(rank[key] for rank in found) for key in found[0]}
    gpu = torch.cuda.get_device_properties(0) if spec.device == "cuda" else None
    rocm = torch.version.hip is not None
    return Measured(
        name=gpu.name if gpu else _cpu_name(),
        vendor=("amd" if rocm else "nvidia") if gpu else "cpu",
        device=spec.device,
        num_ranks=spec.tp_size,
        threads_per_rank=0 if gpu else spec.threads_per_rank,
        cores=_cores(),
        compute_units=gpu.multi_processor_count if gpu else spec.threads_per_rank,
        memory_bytes=float(gpu.total_memory) if gpu else _memory_bytes() / spec.tp_size,
        memory_bandwidth=slowest.pop("memory"),
        flops=slowest,
        all_reduce=spread,
        date=datetime.date.today().isoformat(),
        seconds=time.perf_counter() - start,
        load_before=load_before,
        compute_capability=f"{gpu.major}.{gpu.minor}" if gpu and not rocm else "",
        llvm_target=gpu.gcnArchName.split(":")[0] if gpu and rocm else "",
    )


def worlds(num_ranks: int) -> list[int]:
    """World sizes to measure: the powers of two and all ranks."""
    return sorted({2**k for k in range(num_ranks.bit_length()) if 2**k <= num_ranks} | {num_ranks})


def fit_line(sizes: tuple[int, ...], seconds: list[float]) -> AllReduceLine:
    """Fit latency + bytes / rate to the points by least squares of relative errors.

    If the fitted latency is not positive, the time of the smallest message is used.
    """
    t, size = np.asarray(seconds), np.asarray(sizes, dtype=np.float64)
    (latency, per_byte), *_ = np.linalg.lstsq(np.stack([1 / t, size / t], 1), np.ones_like(t))
    if latency <= 0 or per_byte <= 0:
        latency, per_byte = float(t.min()), float(max(t[-1] - t.min(), 1e-12) / size[-1])
    return AllReduceLine(float(latency), 1 / float(per_byte))


def _spec(device: Device, threads: int, ranks: int) -> GroupSpec:
    gpus, cores = torch.cuda.device_count(), _cores()
    if device == "cuda" and not gpus:
        raise InputError("no GPU is visible to torch", remedy="pass --device cpu")
    if device == "cuda" or (device == "auto" and gpus):
        _at_most("--ranks", ranks, gpus, "GPUs")
        return GroupSpec(ranks or gpus, "cuda")
    _at_most("--threads-per-rank", threads, cores, "cores")
    threads = threads or cores // (ranks or min(cores, MAX_CPU_RANKS)) or 1
    _at_most("--ranks", ranks, cores // threads, f"times {threads} threads that the cores make")
    return GroupSpec(ranks or min(cores // threads, MAX_CPU_RANKS), "cpu", threads_per_rank=threads)


def _at_most(option: str, given: int, there: int, what: str) -> None:
    if given > there:
        raise InputError(f"{option} is {given}", f"allowed: up to the {there} {what}")


def _of(spec: GroupSpec, world: int) -> GroupSpec:
    return GroupSpec(world, spec.device, threads_per_rank=spec.threads_per_rank)


def _rates(rank: Rank, n: int) -> dict[str, float]:
    """Return bytes/s under "memory", and FLOP/s under each dtype."""
    memory = max(peak_rates.copy_rate(rank.device, n), peak_rates.read_rate(rank.device, n))
    flops = {d: peak_rates.matrix_rate(TORCH_DTYPES[d], rank.device, n) for d in DTYPES}
    return {"memory": memory, **flops}


def _all_reduce_times(rank: Rank, n: int) -> list[float]:
    """Return the median seconds of one all-reduce for each of MESSAGE_BYTES."""
    found = []
    for size in MESSAGE_BYTES:
        x = torch.zeros(size // 4, device=rank.device)
        calls = 20 if size <= 2**16 else 3  # one is too short to time

        def work(x: torch.Tensor = x, calls: int = calls) -> None:
            for _ in range(calls):
                rank.collectives.all_reduce(x)

        found.append(statistics.median(peak_rates.seconds(work, rank.device, n)) / calls)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> float:
    """Return the memory of this machine or container."""
    there = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return there
    return min(there, float(limit)) if limit.isdigit() else there
