"""The GPUs and CPU cores available to this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def kind_here() -> str:
    """Return cuda or rocm if the machine has such GPUs, else cpu."""
    return next((kind for kind in ("cuda", "rocm") if present(kind)), "cpu")


def present(kind: str) -> set[int]:
    """Return the indices of the available GPUs or CPU cores.

    GPUs that CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES hides are somebody
    else's, as on a node that Slurm shares out.
    """
    if kind == "cpu":
        return os.sched_getaffinity(0)
    if kind == "cuda":
        folder = Path("/proc/driver/nvidia/gpus")
        gpus = sorted(folder.iterdir()) if folder.is_dir() else []
        return visible([_uuid(gpu) for gpu in gpus], os.environ.get("CUDA_VISIBLE_DEVICES"))
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    names = [""] * sum(_simd_count(node) > 0 for node in nodes)
    # indices of HIP count the GPUs that the runtime below it leaves
    left = visible(names, os.environ.get("ROCR_VISIBLE_DEVICES"))
    return visible([""] * len(left), os.environ.get("HIP_VISIBLE_DEVICES"))


def visible(uuids: Sequence[str], listed: str | None) -> set[int]:
    """Return the indices of the GPUs that `listed` leaves: indices or starts of UUIDs, by commas.

    None hides nothing. As in CUDA, entries after one that names no GPU do not count.
    """
    if listed is None:
        return set(range(len(uuids)))
    found: set[int] = set()
    for entry in map(str.strip, listed.split(",")):
        named = [i for i, uuid in enumerate(uuids) if entry == str(i) or _starts(uuid, entry)]
        if not named:
            break
        found.add(named[0])
    return found


def _starts(uuid: str, entry: str) -> bool:
    return entry.startswith("GPU-") and uuid.startswith(entry)


def _uuid(gpu: Path) -> str:
    """Return the UUID in the driver's folder of a GPU; "" if it does not say."""
    try:
        lines = (gpu / "information").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split()[-1] for line in lines if line.startswith("GPU UUID")), "")


def _simd_count(properties: Path) -> int:
    for line in properties.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(" ")
        if name == "simd_count":
            return int(value)
    return 0
