"""A real node: its GPUs, the link of each pair, peer access, and the host."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping

import msgspec

from shardwise.errors import InputError
from shardwise.node.links import Link

Pair = tuple[int, int]  #: Two device indices, the smaller first.


def pair(a: int, b: int) -> Pair:
    """Return the key of the link between two devices, the lower index first."""
    return (a, b) if a < b else (b, a)


class Device(msgspec.Struct, frozen=True):
    """One GPU with the index that tools give it. Unknown values are None or empty."""

    index: int
    name: str = ""
    bus_id: str = ""
    memory_bytes: float | None = None  #: total as the driver reports it
    used_bytes: float | None = None
    numa: int | None = None  #: the NUMA node if there is only one
    numa_affinity: str = ""  #: as printed: "0", "0-3", "0,3-9"
    cpus: str = ""  #: as printed: "0-31,64-95"
    gpu_numa_id: int | None = None  #: NUMA node of the GPU memory itself (GB200)
    pcie_gen: int | None = None  #: maximum that slot and GPU support
    pcie_width: int | None = None
    power_cap_w: float | None = None
    partition: str = ""  #: "NPS1, SPX" on AMD
    mig: bool = False
    compute_capability: str = ""

    @property
    def island(self) -> str:
        """Key shared by GPUs on one CPU socket; empty if unknown."""
        return f"numa {self.numa}" if self.numa is not None else self.cpus


class Host(msgspec.Struct, frozen=True):
    """The host of the GPUs. Unknown values are None or empty."""

    cpu_name: str = ""
    cpu_vendor: str = ""  #: "AuthenticAMD", "GenuineIntel", …
    sockets: int | None = None
    numa_cpus: Mapping[int, str] = msgspec.field(default_factory=dict)  #: NUMA node -> its CPUs
    hypervisor: str = ""
    iommu: bool | None = None
    acs_redirect: bool | None = None  #: whether a PCIe bridge sends peer traffic to the root


class Node(msgspec.Struct, frozen=True):
    """GPUs and their links. Pairs whose link is unknown are absent from `links`."""

    devices: tuple[Device, ...]
    links: Mapping[Pair, Link]
    peer_access: Mapping[Pair, bool] = msgspec.field(default_factory=dict)
    nic_links: Mapping[tuple[int, str], Link] = msgspec.field(default_factory=dict)
    host: Host = msgspec.field(default_factory=Host)

    def __post_init__(self) -> None:
        known = {device.index for device in self.devices}
        if len(known) != len(self.devices):
            raise InputError("node: two GPUs have one index", "allowed: each index once")
        for a, b in (*self.links, *self.peer_access):
            if a >= b or not {a, b} <= known:
                raise InputError(f"node: link {a}-{b}", f"allowed: pairs of {sorted(known)}")

    @property
    def indices(self) -> tuple[int, ...]:
        """Device indices in ascending order."""
        return tuple(sorted(device.index for device in self.devices))

    def only(self, indices: Collection[int]) -> Node:
        """Return a node with only the GPUs of `indices`."""
        return Node(
            tuple(d for d in self.devices if d.index in indices),
            {p: link for p, link in self.links.items() if set(p) <= set(indices)},
            {p: access for p, access in self.peer_access.items() if set(p) <= set(indices)},
            {key: link for key, link in self.nic_links.items() if key[0] in indices},
            self.host,
        )

    def device(self, index: int) -> Device:
        """Return the device with this index."""
        return next(device for device in self.devices if device.index == index)

    def link(self, a: int, b: int) -> Link | None:
        """Return the link between two devices; None if unknown."""
        return self.links.get(pair(a, b))

    def reaches(self, a: int, b: int) -> bool | None:
        """Return whether one GPU can read the other's memory; None if unknown.

        With a direct link it always can.
        """
        found = self.link(a, b)
        if found and found.direct:
            return True
        return self.peer_access.get(pair(a, b))

    def pairs(self, group: Iterable[int] | None = None) -> tuple[Pair, ...]:
        """Return all pairs of `group`, by default of all devices."""
        return tuple(itertools.combinations(sorted(self.indices if group is None else group), 2))

    def unknown_pairs(self, group: Iterable[int] | None = None) -> tuple[Pair, ...]:
        """Return the pairs whose link is unknown."""
        return tuple(p for p in self.pairs(group) if p not in self.links)

    def fully_connected(self, group: Iterable[int]) -> bool:
        """Return whether every pair of `group` has a direct link ("fully connected" in engines)."""
        return all((link := self.links.get(p)) and link.direct for p in self.pairs(group))

    @property
    def vendor(self) -> str:
        """Vendor according to links and names: "amd", "nvidia" or ""."""
        names = " ".join(device.name for device in self.devices).lower().strip()
        kinds = {link.kind for link in self.links.values()}
        if kinds & {"XGMI", "PCIE"} or any(
            w in names for w in ("amd", "instinct", "radeon", "mi3")
        ):
            return "amd"
        nvidia = kinds & {"NVLINK", "PIX", "PXB", "PHB", "NODE", "SYS"}
        return "nvidia" if nvidia or names else ""
