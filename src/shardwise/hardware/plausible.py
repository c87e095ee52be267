"""Whether a GPU's figures can be in the units that they claim."""

from __future__ import annotations

from typing import Final

from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu

#: Lowest and highest in SI: from a core of a small CPU to ten times the largest GPU of the
#: catalogue (GB300: 2.5 PFLOPS of bf16, 8 TB/s, 288 GB, links of 900 GB/s).
_RANGES: Final = {
    "flops.bf16": (1e8, 2.5e16, "FLOPS"),
    "memory_bandwidth": (1e8, 8e13, "B/s"),
    "memory": (1e8, 3e12, "B"),
    "interconnect.bandwidth": (1e6, 1e13, "B/s"),
}
#: FLOPs of bf16 for each byte read: 150 to 350 of the catalogue's GPUs, about 5 of a CPU
_INTENSITY: Final = (0.05, 3500.0)


def check_units(gpu: Gpu, where: str) -> None:
    """Raise InputError for a figure that only a wrong unit, or a slip of three digits, gives."""
    found = {
        "flops.bf16": gpu.flops["bf16"],
        "memory_bandwidth": gpu.memory_bandwidth,
        "memory": gpu.memory_bytes,
        "interconnect.bandwidth": gpu.interconnect.bandwidth_bytes_per_s,
    }
    for key, value in found.items():
        low, high, unit = _RANGES[key]
        if not low <= value <= high:
            raise InputError(
                f"{where}.{key} is {value:.4g} {unit}",
                f"allowed: {low:.3g} to {high:.3g}",
                "check its unit",
            )
    intensity = gpu.flops["bf16"] / gpu.memory_bandwidth
    low, high = _INTENSITY
    if not low <= intensity <= high:
        raise InputError(
            f"{where} has {intensity:,.3g} bf16 FLOPs for each byte of memory bandwidth",
            f"allowed: {low:g} to {high:g}",
            "check the units of flops and memory_bandwidth",
        )
