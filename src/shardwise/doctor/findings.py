"""Findings: problems and possible improvements of a node, with reason and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from shardwise.node.generations import (
    always_has_nvlink,
    lacks_peer_access,
    name_of,
    takes_bridges,
)
from shardwise.node.node import Device, Node
from shardwise.node.placement import Placement, best, placements, tp_sizes
from shardwise.node.reading.environment import says_nothing
from shardwise.node.reading.read import Reading
from shardwise.perfmodel.node_all_reduce import nccl_level, transport_of
from shardwise.units import GIB

Severity = Literal["error", "warning", "note"]
_ORDER: Final = ("error", "warning", "note")
#: Memory in use before a start from which a finding is reported.
_IN_USE_BYTES: Final = 1.0 * GIB
#: Phrase in a log's reason for "Custom allreduce is disabled" -> explanation.
_WHY_OFF: Final = (
    ("world size", "its kernel supports 2, 4, 6 or 8 GPUs"),
    ("across nodes", "its kernel works within one node; NCCL is normally used between nodes"),
    (
        "lacks GPU P2P",
        "the GPUs cannot access each other's memory, or the engine's test failed",
    ),
    ("missing custom", "the build has no such kernel"),
    ("", "expected for more than two GPUs without NVLink between all of them"),
)
_WHY_NO_ACCESS: Final = {
    "GNS": "the GPU or its driver does not support it",
    "CNS": "the chipset does not support it",
    "TNS": "the topology does not support it",
    "DR": "a driver setting disables it",
    "NS": "it is not supported",
}


class Finding(msgspec.Struct, frozen=True):
    """One finding: what it is, why it matters and what to do ("" if nothing can be done)."""

    severity: Severity
    what: str
    why: str
    remedy: str = ""


def findings(reading: Reading) -> tuple[Finding, ...]:
    """Return every finding of a reading, the most severe first."""
    found = list(_of_failed(reading))
    node = reading.node
    if node is not None and node.devices:
        found += _of_devices(node)
        if node.links:
            found += _of_links(node)
            found += _of_peer_access(reading, node)
            found += _of_ring(reading, node)
    found += _of_software(reading)
    return tuple(sorted(found, key=lambda f: _ORDER.index(f.severity)))


def _of_failed(reading: Reading) -> Iterator[Finding]:
    for gpu in reading.failed:
        if not gpu.bus_id:
            yield Finding(
                "error",
                f"no GPU answers: {gpu.what}",
                "the driver is not loaded, or its version differs from the libraries'",
                "reboot after a driver update; in a container, start it with the GPU runtime",
            )
            continue
        yield Finding(
            "error",
            f"GPU {gpu.bus_id} does not answer: {gpu.what}",
            "engines cannot start on it, and the other GPUs are numbered without it",
            "look for Xid in dmesg, reseat the card or its power cable, and reboot",
        )


def _of_devices(node: Node) -> Iterator[Finding]:
    names = {d.name for d in node.devices} - {""}
    if len(names) > 1:
        yield Finding(
            "warning",
            f"different GPUs in one node: {', '.join(sorted(names))}",
            "a TP group is limited to the speed and memory of its weakest GPU",
            "use GPUs of one kind in each TP group",
        )
    busy = [d for d in node.devices if d.used_bytes is not None and d.used_bytes > _IN_USE_BYTES]
    if busy:
        most = max(d.used_bytes or 0.0 for d in busy)
        yield Finding(
            "warning",
            f"memory is in use on GPU {_listed(busy)} (up to {most / GIB:.1f} GiB)",
            "vLLM counts it against --gpu-memory-utilization and may not start",
            "stop those processes first, unless they are the engine itself",
        )
    if mig := [d for d in node.devices if d.mig]:
        yield Finding(
            "warning",
            f"MIG is on for GPU {_listed(mig)}",
            "MIG slices have no NVLink and no peer access, so they cannot form a TP group",
            "turn MIG off for TP, or run one replica per slice",
        )
    if split := [d for d in node.devices if d.partition and "SPX" not in d.partition]:
        yield Finding(
            "note",
            f"GPU {_listed(split)} is partitioned ({split[0].partition})",
            "each partition is a separate device with a share of memory and compute",
        )
    narrow = [d for d in node.devices if d.pcie_width is not None and d.pcie_width < 16]
    if narrow and not any(link.direct for link in node.links.values()):
        width = min(d.pcie_width or 16 for d in narrow)
        yield Finding(
            "warning",
            f"GPU {_listed(narrow)} has a PCIe link of x{width}",
            "without NVLink, every all-reduce uses this link, at half the rate of x16 or less",
            "move the card to an x16 slot, or turn lane sharing off in the BIOS",
        )


def _of_links(node: Node) -> Iterator[Finding]:
    direct = [p for p, link in node.links.items() if link.direct]
    name = name_of(node)
    if not direct and node.vendor == "nvidia" and len(node.devices) > 1:
        yield from _of_missing_nvlink(node, name)
    elif direct and node.vendor == "nvidia" and not node.fully_connected(node.indices):
        yield from _of_partial_nvlink(node)
    if node.vendor == "amd" and any(link.kind == "PCIE" for link in node.links.values()):
        yield Finding(
            "note",
            "AMD's tools do not report the PCIe path between two GPUs",
            "one switch and two sockets differ by a factor of several",
            "use lspci -tv to find the switch or root port of each card",
        )
    hosts = {link.kind for link in node.links.values() if not link.direct}
    nics = {link.kind for link in node.nic_links.values()}
    one_numa = {d.numa for d in node.devices} == {0}
    if node.host.hypervisor or (direct and not hosts and nics == {"PHB"} and one_numa):
        yield Finding(
            "note",
            f"a virtual machine{f' ({node.host.hypervisor})' if node.host.hypervisor else ''}: "
            "its PCIe and NUMA layout is not the host's",
            "NUMA nodes and PCIe distances are unreliable; NVLink is reliable",
        )
    if all(d.island == "" or "-" in d.numa_affinity for d in node.devices):
        yield Finding(
            "note",
            "the NUMA node of the GPUs is unknown (hidden by a container, or a range)",
            "groups are chosen by links only",
        )


def _of_missing_nvlink(node: Node, name: str) -> Iterator[Finding]:
    if any(always_has_nvlink(d) for d in node.devices):
        yield Finding(
            "error",
            f"{name or 'an SXM board'} without a single NVLink",
            "the NVSwitch fabric is down: TP runs over PCIe, or CUDA does not start at all",
            "start nvidia-fabricmanager in the driver's version, then check nvidia-smi topo -m",
        )
    elif not name and len(node.devices) in (4, 8):
        yield Finding(
            "warning",
            "no NVLink between any two GPUs",
            "normal for PCIe cards; on an SXM board (A100, H100, H200, B200), nvidia-fabricmanager "
            "is not running",
            "check the board with nvidia-smi -L; on SXM: systemctl status nvidia-fabricmanager",
        )
    elif any(map(takes_bridges, node.devices)):
        yield Finding(
            "note",
            f"{name} supports NVLink bridges, but none is installed",
            "a bridged pair has a direct link for TP=2, independent of the PCIe layout",
            "install bridges between pairs of cards",
        )


def _of_partial_nvlink(node: Node) -> Iterator[Finding]:
    whole = [
        size
        for size in tp_sizes(node)
        if size > 1 and (group := best(node, size)).fully_connected and group.slowest is not None
    ]
    largest = max(whole, default=1)
    group = best(node, largest)
    yield Finding(
        "warning",
        f"direct links join {'pairs' if largest == 2 else f'at most {largest}'} of the "
        f"{len(node.devices)} GPUs, as {_ids(group)}",
        f"TP above {largest} uses PCIe, and engines disable their own all-reduce",
        f"prefer TP={largest} with several replicas, or pipeline stages between these groups; if "
        f"NCCL "
        f"hangs above TP={largest}, NCCL_P2P_LEVEL=NVL limits peer-to-peer to the direct links",
    )


def _of_peer_access(reading: Reading, node: Node) -> Iterator[Finding]:
    denied = [p for p, access in node.peer_access.items() if not access]
    if denied:
        codes = {reading.why_not.get(p, "NS") for p in denied}
        why = "; ".join(_WHY_NO_ACCESS.get(code, code) for code in sorted(codes))
        yield Finding(
            "warning",
            f"no peer access between {len(denied)} of {len(node.pairs())} pairs: {why}",
            "NCCL copies through host memory; NCCL_P2P_LEVEL does not change that",
            "CNS and TNS: other slots, ACS and IOMMU off; GNS: the card or its driver does not "
            "allow it; plan for host memory",
        )
    geforce = [d for d in node.devices if lacks_peer_access(d)]
    open_pairs = [p for p, access in node.peer_access.items() if access and not _direct(node, p)]
    if geforce and open_pairs:
        yield Finding(
            "warning",
            "GeForce cards with peer access over PCIe: a modified driver",
            "on one such machine vLLM's own all-reduce returned wrong sums "
            "(noonghunna/club-3090 issue 922)",
            "compare outputs with --disable-custom-all-reduce before trusting it",
        )


def _direct(node: Node, key: tuple[int, int]) -> bool:
    link = node.links.get(key)
    return link is not None and link.direct


def _of_ring(reading: Reading, node: Node) -> Iterator[Finding]:
    """Find use of host memory instead of peer-to-peer, crossed sockets, and redirected PCIe
    traffic."""
    whole = [best(node, size) for size in tp_sizes(node) if size > 1]
    by_host = [p for p in whole if transport_of(p) == "host memory" and nccl_level(p)]
    denied = False in node.peer_access.values() or any(map(lacks_peer_access, node.devices))
    if by_host and not denied and node.vendor == "nvidia":
        yield _of_level(by_host)
    for size in (p for p in tp_sizes(node) if 1 < p < len(node.devices)):
        groups = placements(node, size)
        crossing = [g for g in groups if g.crosses_numa]
        if crossing and len(crossing) < len(groups):
            yield Finding(
                "note",
                f"TP={size}: {_ids(groups[0])} is on one NUMA node, {_ids(crossing[-1])} is not",
                "the replica on the second group is slower than the first",
                f"use TP={size} once, or a smaller TP for the rest",
            )
    yield from _of_redirection(node)
    if reading.nccl is not None and not reading.nccl.peer_to_peer:
        used = ", ".join(sorted(reading.nccl.transports))
        yield Finding(
            "warning",
            f"NCCL's log shows {used}",
            "some channels are not GPU-to-GPU",
            "see NCCL_P2P_LEVEL above, or whether a container lacks --ipc=host and shared memory",
        )


def _of_level(groups: list[Placement]) -> Finding:
    level = nccl_level(groups[-1])
    sizes = ", ".join(f"TP={len(p.devices)}" for p in groups)
    slowest = groups[-1].slowest
    return Finding(
        "warning",
        f"NCCL uses host memory on {sizes}: by default it uses GPU-to-GPU only up to PXB, and the "
        f"slowest link is {slowest.code if slowest else '?'}",
        "on four RTX PRO 6000 on two sockets, NCCL_P2P_LEVEL=SYS raised the bus bandwidth of a "
        "32 MB all-reduce from 30.3 to 39.3 GB/s (local-inference-lab/rtx6kpro)",
        f"try NCCL_P2P_LEVEL={level} and compare, if nvidia-smi topo -p2p r reports OK",
    )


def _of_redirection(node: Node) -> Iterator[Finding]:
    on_pcie = any(link.kind in ("PIX", "PXB", "PHB") for link in node.links.values())
    if node.host.acs_redirect and on_pcie:
        yield Finding(
            "warning",
            "ACS redirect is on for PCIe bridges",
            "peer traffic between GPUs goes through the root complex: 16 instead of 55 GB/s on one "
            "node (local-inference-lab/rtx6kpro), and NCCL may hang (NVIDIA/nccl issue 2079)",
            "turn ACS off in the BIOS, or clear it on the bridges with setpci after each boot",
        )
    if node.host.iommu and on_pcie:
        yield Finding(
            "warning",
            "the IOMMU translates addresses",
            "it costs about 15 % of each transfer between GPUs, and hangs with eight of them "
            "(local-inference-lab/rtx6kpro)",
            "boot with iommu=pt, or turn the IOMMU off in the BIOS if no VM needs it",
        )


def _of_software(reading: Reading) -> Iterator[Finding]:
    for engine in ("vllm", "sglang"):
        version = reading.versions.get(engine, "")
        if version and says_nothing(version):
            yield Finding(
                "note",
                f"{engine} {version} is a build without a release version",
                "the conditions are those of releases of 2026",
            )
    for start in reading.startups:
        reason = start.said.get("custom_off")
        if reason:
            yield Finding(
                "note",
                f"the log says that the engine's own all-reduce is off: {reason}",
                next(why for part, why in _WHY_OFF if part in reason),
                "--disable-custom-all-reduce only silences the warning",
            )
        forced = start.said.get("custom_on", "").startswith("PCIe")
        if forced and start.tp_at_least > 4:
            yield Finding(
                "note",
                "the engine's own all-reduce is forced on over PCIe",
                "on eight RTX PRO 6000 on two sockets it cost 4 to 16 % of decode speed "
                "(local-inference-lab/rtx6kpro); within one socket it gained 7 to 11 %",
                "measure both; use it only for groups within one socket",
            )


def _ids(placement: Placement) -> str:
    return ",".join(map(str, placement.devices))


def _listed(devices: list[Device]) -> str:
    return ", ".join(str(d.index) for d in devices)
