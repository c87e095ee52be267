"""The GPUs and CPU cores available to this process."""

from __future__ import annotations

import os
from pathlib import Path


def kind_here() -> str:
    """Return cuda or rocm if the machine has such GPUs, else cpu."""
    return next((kind for kind in ("cuda", "rocm") if present(kind)), "cpu")


def present(kind: str) -> set[int]:
    """Return the indices of the available GPUs or CPU cores."""
    if kind == "cpu":
        return os.sched_getaffinity(0)
    if kind == "cuda":
        folder = Path("/proc/driver/nvidia/gpus")
        return set(range(len(list(folder.iterdir())))) if folder.is_dir() else set()
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    with_compute = [node for node in nodes if _simd_count(node) > 0]
    return set(range(len(with_compute)))


def _simd_count(properties: Path) -> int:
    for line in properties.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(" ")
        if name == "simd_count":
            return int(value)
    return 0
