"""What a GPU and its links are, as numbers in SI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Topology = Literal["full_mesh", "switched", "pcie"]


@dataclass(frozen=True)
class Interconnect:
    """How the GPUs of one node reach each other. Bandwidths are per GPU, one direction."""

    technology: str
    topology: Topology
    bandwidth_bytes_per_s: float  #: of all links of one GPU together
    links: int  #: on a full mesh, one per peer
    max_world: int  #: GPUs that can talk at this rate

    def peer_bandwidth(self, tp_size: int) -> float:
        """Bytes/s one GPU can send to the `tp_size - 1` peers it shards with.

        A full mesh has one link per pair, so TP=2 uses one link, TP=4 three, TP=8 seven. A switch
        gives any pair the full rate; PCIe has one port whatever the number of peers.
        """
        if self.topology == "full_mesh":
            return self.bandwidth_bytes_per_s / self.links * min(max(tp_size - 1, 1), self.links)
        return self.bandwidth_bytes_per_s


@dataclass(frozen=True)
class AllReduceLine:
    """A measured all-reduce: latency_s + bytes / bytes_per_s, of the message."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Gpu:
    """One accelerator, from its datasheet; or one rank's share of a CPU, measured."""

    id: str
    name: str
    vendor: str  #: "nvidia", "amd", "cpu", …
    generation: str  #: "hopper", "cdna3", … : GPUs of one generation share priors
    memory_bytes: float  #: what software can allocate: the driver's figure where known
    memory_bandwidth: float  #: bytes/s
    flops: Mapping[str, float]  #: dense FLOP/s by dtype: "bf16", "fp8", "fp4", "fp32"
    tdp_w: float  #: 0: not known
    num_compute_units: int  #: SMs or CUs; threads of a CPU's rank
    interconnect: Interconnect
    node_gpus: int  #: GPUs in the usual node
    nominal_memory_gb: float = 0.0  #: the marketed figure
    all_reduce: Mapping[int, AllReduceLine] = field(default_factory=dict)  #: by world size

    @property
    def has_fp8_cache(self) -> bool:
        """Whether attention kernels read an fp8 cache: on GPUs that multiply fp8 (vLLM issue
        26431: "fp8e4nv not supported" on Ampere)."""
        return "fp8" in self.flops

    def matrix_rate(self, dtype: str) -> float:
        """Dense FLOP/s for `dtype`; one that the GPU lacks runs as the next wider."""
        # datasheets give fp32 without matrix units: where nobody measured it, it is not told apart
        wider = {
            "fp4": ("fp4", "fp8", "bf16"),
            "fp8": ("fp8", "bf16"),
            "fp32": ("fp32", "bf16"),
        }
        for name in wider.get(dtype, ("bf16",)):
            if name in self.flops:
                return self.flops[name]
        raise AssertionError(f"{self.id} has no bf16 rate")
