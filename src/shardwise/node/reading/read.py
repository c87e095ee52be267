"""Combine one or more pastes into a reading: node, software, start-ups and truncated parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import fields, replace

from shardwise.errors import InputError
from shardwise.node.links import Link
from shardwise.node.node import Device, Host, Node, Pair
from shardwise.node.reading.environment import read_environment
from shardwise.node.reading.host import read_host
from shardwise.node.reading.nccl import Nccl, read_nccl
from shardwise.node.reading.smi_amd import read_amd_smi
from shardwise.node.reading.smi_nvidia import FailedGpu, read_smi
from shardwise.node.reading.startup import Startup, read_startups
from shardwise.node.reading.text import Problem, clean
from shardwise.node.reading.topology_amd import read_amd
from shardwise.node.reading.topology_nvidia import Topology, read_nvidia

READS: Final = (
    "nvidia-smi, nvidia-smi topo -m, rocm-smi --showtopo, amd-smi topology, lscpu, vLLM's "
    "collect_env and start-up logs of vLLM and SGLang"
)
#: GPUs of which every pair in a node has its own XGMI link.
_FULL_MESH: Final = re.compile(r"MI3\d\d", re.IGNORECASE)


class Reading(msgspec.Struct, frozen=True):
    """Everything recognised in the text. `node` is None if no GPU was found."""

    source: str
    node: Node | None = None
    versions: Mapping[str, str] = msgspec.field(default_factory=dict)
    startups: tuple[Startup, ...] = ()
    nccl: Nccl | None = None
    failed: tuple[FailedGpu, ...] = ()
    problems: tuple[Problem, ...] = ()
    why_not: Mapping[Pair, str] = msgspec.field(default_factory=dict)  #: NVIDIA's code by pair

    @property
    def empty(self) -> bool:
        """Whether nothing in the text was recognised."""
        host_only = self.node is None and not self.versions and not self.startups
        return host_only and self.nccl is None and not self.failed and not self.problems

    @property
    def unknown_pairs(self) -> tuple[Pair, ...]:
        """Pairs without a link in a truncated matrix."""
        if self.node is None or not (self.node.links or self.problems):
            return ()
        return self.node.unknown_pairs()


def read(text: str, source: str = "text") -> Reading:
    """Parse `text`. Unknown lines are skipped; truncated parts are listed in `problems`."""
    lines = clean(text)
    topologies = (read_nvidia(lines), read_amd(lines))
    smi, amd, environment = read_smi(lines), read_amd_smi(lines), read_environment(lines)
    devices: dict[int, Device] = {}
    for part in (*(t.devices for t in topologies), smi.devices, amd.devices, environment.devices):
        for index, device in part.items():
            devices[index] = _merged(devices.get(index), device)
    if environment.gpu:
        named = {i: replace(d, name=d.name or environment.gpu) for i, d in devices.items()}
        devices = named or {0: Device(0, name=environment.gpu)}
    startups = read_startups(lines)
    driver = {"driver": smi.driver or amd.driver} if smi.driver or amd.driver else {}
    return Reading(
        source=source,
        node=_node(devices, topologies, read_host(lines)),
        versions={**driver, **environment.versions},
        startups=startups,
        nccl=read_nccl(lines),
        failed=tuple(smi.failed),
        problems=tuple(p for t in topologies for p in t.problems),
        why_not={k: v for t in topologies for k, v in t.why_not.items()},
    )


def require_something(reading: Reading) -> Reading:
    """Raise InputError if nothing in the text was recognised."""
    if reading.empty:
        raise InputError(f"{reading.source}: nothing in it is known", f"what is read: {READS}")
    return reading


def require_whole(reading: Reading) -> None:
    """Raise InputError, naming the line, if a matrix is truncated and links are unknown."""
    unknown = reading.unknown_pairs
    if not unknown:
        return
    shown = ", ".join(f"{a}-{b}" for a, b in unknown[:4]) + (", …" if len(unknown) > 4 else "")
    where = str(reading.problems[0]) if reading.problems else "no matrix names them"
    raise InputError(
        f"{reading.source}: {where}",
        f"the links of {len(unknown)} pairs are not known ({shown})",
        "paste the whole matrix",
    )


def merge(readings: Sequence[Reading]) -> Reading:
    """Merge several pastes of one machine. The first paste with a value wins.

    Raises InputError if two pastes have links of different numbers of GPUs.
    """
    if len(readings) == 1:
        return readings[0]
    with_links = [r.node for r in readings if r.node is not None and r.node.links]
    if len({len(node.devices) for node in with_links}) > 1:
        counts = ", ".join(f"{r.source}: {len(r.node.devices)} GPUs" for r in readings if r.node)
        raise InputError(
            f"pastes of different machines ({counts})", "allowed: files of one machine"
        )
    versions: dict[str, str] = {}
    for reading in readings:
        versions = {**reading.versions, **versions}
    return Reading(
        source=" + ".join(r.source for r in readings),
        node=_merged_nodes([r.node for r in readings if r.node is not None]),
        versions=versions,
        startups=tuple(s for r in readings for s in r.startups),
        nccl=next((r.nccl for r in readings if r.nccl is not None), None),
        failed=tuple(f for r in readings for f in r.failed),
        problems=tuple(p for r in readings for p in r.problems),
        why_not={k: v for r in reversed(readings) for k, v in r.why_not.items()},
    )


def _merged_nodes(nodes: Sequence[Node]) -> Node | None:
    devices: dict[int, Device] = {}
    links: dict[Pair, Link] = {}
    peers: dict[Pair, bool] = {}
    nics: dict[tuple[int, str], Link] = {}
    host = Host()
    for node in nodes:
        for device in node.devices:
            devices[device.index] = _merged(devices.get(device.index), device)
        links = {**node.links, **links}
        peers = {**node.peer_access, **peers}
        nics = {**node.nic_links, **nics}
        host = _merged_hosts(host, node.host)
    if not devices:
        return None
    return _with_mesh(Node(_in_order(devices), links, peers, nics, host))


def _node(devices: Mapping[int, Device], parts: Iterable[Topology], host: Host) -> Node | None:
    links: dict[Pair, Link] = {}
    peers: dict[Pair, bool] = {}
    nics: dict[tuple[int, str], Link] = {}
    for part in parts:
        links |= part.links
        peers |= part.peer_access
        nics |= part.nic_links
    if not devices and host == Host():
        return None
    return _with_mesh(Node(_in_order(devices), links, peers, nics, host))


def _in_order(devices: Mapping[int, Device]) -> tuple[Device, ...]:
    return tuple(devices[i] for i in sorted(devices))


def _with_mesh(node: Node) -> Node:
    """Return `node` with XGMI links of unknown hops set to direct if its GPUs have such links."""
    named = all(_FULL_MESH.search(device.name) for device in node.devices)
    if not node.devices or not named:
        return node
    direct = {k: Link("XGMI") if v.kind == "XGMI" else v for k, v in node.links.items()}
    return replace(node, links=direct)


def _merged(old: Device | None, new: Device) -> Device:
    """Return `old`, with missing values from `new`."""
    if old is None:
        return new
    values = {f.name: getattr(new, f.name) for f in fields(Device) if _unsaid(old, f.name)}
    return replace(old, **values)


def _unsaid(device: Device, name: str) -> bool:
    """Return whether a value is missing. NUMA node 0 is a value."""
    value = getattr(device, name)
    return value is None or value is False or value == ""


def _merged_hosts(old: Host, new: Host) -> Host:
    values = {
        f.name: getattr(new, f.name)
        for f in fields(Host)
        if getattr(old, f.name) in (None, "") or getattr(old, f.name) == {}
    }
    return replace(old, **values)
