"""Roofline: work divided by peak rates. No kernel is predicted to be faster."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from shardwise.hardware.gpu import Gpu
from shardwise.kernels.provenance import Array, Sizes

#: Share of the roofline that a kernel reaches if there is no table. Assumed: measured GEMM and
#: attention tables have 0.5 to 0.85 at large sizes. Doubling it halves such times.
ASSUMED_EFFICIENCY: Final = 0.6
#: Seconds to launch a kernel in a CUDA graph if there is no table. Assumed: measured tables start
#: at 2 to 3 us. Doubling it adds 3 us to each small operator.
ASSUMED_LAUNCH_S: Final = 3e-6


class Rates(msgspec.Struct, frozen=True):
    """Peak rates of one GPU, and the properties that determine its relatives.

    Attributes:
        flops: Dense FLOP/s by dtype, as in `Gpu.flops`, as pairs.
        memory: Bytes/s of device memory.
        link: Bytes/s of one GPU's links together, one direction.
        mesh_links: Links of a full mesh, one per peer; 0 where a switch or bus connects GPUs.
        shared_bus: Whether PCIe connects the GPUs, without reduction in a switch.
    """

    gpu_id: str
    vendor: str
    generation: str
    flops: tuple[tuple[str, float], ...]
    memory: float
    link: float
    mesh_links: int
    shared_bus: bool

    def matrix(self, dtype: str) -> float:
        """Return dense FLOP/s for `dtype`, or for the next wider dtype that the GPU supports."""
        wider = {"fp4": ("fp4", "fp8", "bf16"), "fp8": ("fp8", "bf16"), "fp32": ("fp32", "bf16")}
        rates = dict(self.flops)
        order = (*wider.get(dtype, ()), "bf16", "fp16", "fp32", *rates)
        return next(rates[name] for name in order if name in rates)

    def has(self, dtype: str) -> bool:
        """Whether the matrix units support `dtype`."""
        return any(name == dtype for name, _ in self.flops)

    def peers(self, ranks: Sizes) -> Array:
        """Bytes/s that one GPU can send to the other `ranks - 1` GPUs."""
        others = np.maximum(np.asarray(ranks, dtype=np.float64) - 1.0, 1.0)
        if self.mesh_links:
            return np.asarray(self.link / self.mesh_links * np.minimum(others, self.mesh_links))
        return np.full_like(others, self.link)


def rates_of(gpu: Gpu) -> Rates:
    """Return the datasheet rates of a GPU of the catalogue."""
    link = gpu.interconnect
    return Rates(
        gpu_id=gpu.id,
        vendor=gpu.vendor,
        generation=gpu.generation,
        flops=tuple(sorted(gpu.flops.items())),
        memory=gpu.memory_bandwidth,
        link=link.bandwidth_bytes_per_s,
        mesh_links=link.links if link.topology == "full_mesh" else 0,
        shared_bus=link.topology == "pcie",
    )


def ideal(flops: Array, matrix: float, moved: Array, memory: float) -> Array:
    """Return seconds at the peak rates: the longer of arithmetic and memory traffic."""
    return np.asarray(np.maximum(flops / matrix, moved / memory))
