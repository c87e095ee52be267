"""A GPU and its links, as numbers in SI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Topology = Literal["full_mesh", "switched", "pcie", "network"]
Status = Literal["released", "announced"]

#: The dtype that a matrix unit uses for an unsupported dtype: the next wider one. Datasheets give
#: the fp32 rate without matrix units; without a measurement, that rate is used.
_WIDER = {
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "int8": ("int8", "bf16", "fp16"),
    "fp16": ("fp16", "bf16"),
    "fp32": ("fp32", "bf16", "fp16"),
}


class Island(msgspec.Struct, frozen=True):
    """GPUs of one node with faster links among themselves than to the rest of the node."""

    technology: str  #: "NVLink 4 bridge", …
    gpus: int
    bandwidth_bytes_per_s: float  #: from one GPU to all its peers in the island, one direction
    fitted: bool  #: whether a node usually has these links; bridges are often sold separately


class Interconnect(msgspec.Struct, frozen=True):
    """Links between the GPUs of one node. Bandwidths are per GPU, one direction."""

    technology: str
    topology: Topology
    bandwidth_bytes_per_s: float  #: total of all links of one GPU
    links: int  #: on a full mesh, one per peer
    max_world: int  #: GPUs that can talk at this rate
    island: Island | None = None

    def peer_bandwidth(self, tp_size: int) -> float:
        """Return the bytes/s that one GPU can send to its `tp_size - 1` peers.

        A full mesh has one link per pair, so TP=2 uses one link, TP=4 three, TP=8 seven. A switch
        gives any pair the full rate; PCIe has one port whatever the number of peers. Within a
        fitted island each pair has the same share of the island's links.
        """
        peers = max(tp_size - 1, 1)
        if self._within_island(tp_size) and self.island:
            return self.island.bandwidth_bytes_per_s * peers / (self.island.gpus - 1)
        if self.topology == "full_mesh":
            return self.bandwidth_bytes_per_s / self.links * min(peers, self.links)
        return self.bandwidth_bytes_per_s

    def topology_of(self, tp_size: int) -> Topology:
        """Return the topology of `tp_size` GPUs: a full mesh within a fitted island."""
        return "full_mesh" if self._within_island(tp_size) else self.topology

    def _within_island(self, tp_size: int) -> bool:
        return self.island is not None and self.island.fitted and tp_size <= self.island.gpus


class AllReduceLine(msgspec.Struct, frozen=True):
    """A measured all-reduce: latency_s + message bytes / bytes_per_s."""

    latency_s: float
    bytes_per_s: float


class Gpu(msgspec.Struct, frozen=True):
    """One accelerator from its datasheet, or one rank's measured share of a CPU."""

    id: str
    name: str
    vendor: str  #: "nvidia", "amd", "cpu", …
    generation: str  #: "hopper", "cdna3", … : GPUs of one generation share priors
    memory_bytes: float  #: memory that software can allocate: as the driver reports it, if known
    memory_bandwidth: float  #: bytes/s
    flops: Mapping[str, float]  #: dense FLOP/s by native dtype: "bf16", "fp16", "fp8", …
    tdp_w: float  #: 0: not known
    num_compute_units: int  #: SMs, CUs or Xe cores; threads of a CPU's rank; 0: not known
    interconnect: Interconnect
    node_gpus: int  #: GPUs in the usual node
    memory_nameplate_gb: float = 0.0  #: the marketed figure: 24, 80, 141, 192, 288
    all_reduce: Mapping[int, AllReduceLine] = msgspec.field(default_factory=dict)  #: by world size
    all_reduce_source: str = ""  #: source of `all_reduce`; empty: measured on this GPU
    runtime_memory_bytes: float = 0.0  #: total that CUDA or HIP reports to a program; 0: not known
    l2_cache_bytes: float = 0.0  #: 0: not known
    compute_capability: tuple[int, int] | None = None  #: NVIDIA's, e.g. (9, 0); None: not known
    llvm_target: str = ""  #: AMD's, e.g. "gfx942"
    #: predicted minus logged KV cache of a start-up log; negative if the logged one is larger
    cache_shortfall_bytes: float = 0.0
    kv_fp8: bool | None = None  #: whether kernels can read an fp8 KV cache; None: not known
    status: Status = "released"
    released: str = ""  #: "2023-12" or "2024"; empty: not known

    @property
    def visible_memory_bytes(self) -> float:
        """Memory that an engine multiplies by its memory utilization: the runtime's total, else the
        driver's. CUDA reports 0.4 to 1 GiB less than nvidia-smi.
        """
        return self.runtime_memory_bytes or self.memory_bytes

    @property
    def fp4_formats(self) -> tuple[str, ...]:
        """Four-bit formats supported by the matrix units; empty: weights are widened first."""
        if "fp4" not in self.flops:
            return ()
        return ("mxfp4", "nvfp4") if self.vendor == "nvidia" else ("mxfp4",)

    @property
    def has_fp8_cache(self) -> bool:
        """Whether attention kernels support an fp8 cache; if unknown, whether the GPU supports fp8
        GEMMs."""
        return "fp8" in self.flops if self.kv_fp8 is None else self.kv_fp8

    def matrix_rate(self, dtype: str) -> float:
        """Return dense FLOP/s for `dtype`; an unsupported dtype runs as the next wider one."""
        for name in _WIDER.get(dtype, ("bf16", "fp16")):
            if name in self.flops:
                return self.flops[name]
        raise AssertionError(f"{self.id} has no 16-bit rate")
