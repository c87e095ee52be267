"""A node as a TOML file, read by `--node my-node.toml` and written by `doctor --save`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shardwise.errors import InputError
from shardwise.files import read_utf8, write_whole
from shardwise.node.links import Link, parse_link
from shardwise.node.node import Device, Host, Node, Pair


class DeviceTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One `[[device]]`."""

    index: int
    name: str = ""
    bus_id: str = ""
    memory_mib: float | None = None
    numa: int | None = None
    cpus: str = ""
    pcie_gen: int | None = None
    pcie_width: int | None = None
    compute_capability: str = ""


class HostTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """`[host]`."""

    cpu_name: str = ""
    cpu_vendor: str = ""
    sockets: int | None = None
    hypervisor: str = ""
    iommu: bool | None = None
    acs_redirect: bool | None = None


class NodeTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file. `links` maps "0-1" to "NV12", `peer_access` maps "0-1" to true."""

    device: list[DeviceTable]
    links: dict[str, str] = {}
    peer_access: dict[str, bool] = {}
    host: HostTable = HostTable()


def read(path: Path) -> Node:
    """Return the node in a file. Raises InputError naming the file and the invalid key."""
    try:
        data = tomllib.loads(read_utf8(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "a node file in TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    try:
        table = msgspec.convert(data, NodeTable)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}", "allowed: see docs/howto/node.md") from None
    return _node(table, str(path))


def write(path: Path, node: Node) -> None:
    """Write the file atomically. Raises InputError if it cannot be written."""
    try:
        write_whole(path, to_toml(node).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def to_toml(node: Node) -> str:
    """Return the file's text. Reading it back gives the same devices, links and host."""
    return "\n".join(_lines(node)) + "\n"


def _lines(node: Node) -> Iterator[str]:
    host = _host_table(node.host)
    if host:
        yield "[host]"
        yield from _keys(host)
        yield ""
    for device in sorted(node.devices, key=lambda d: d.index):
        yield "[[device]]"
        yield from _keys(_device_table(device))
        yield ""
    yield "[links]  # NV#: bonded NVLinks; XGMI; PIX, PXB, PHB, NODE, SYS as nvidia-smi topo -m"
    for (a, b), link in sorted(node.links.items()):
        yield f'{a}-{b} = "{link.code}"'
    if node.peer_access:
        yield ""
        yield "[peer_access]"
        for (a, b), access in sorted(node.peer_access.items()):
            yield f"{a}-{b} = {str(access).lower()}"


def _device_table(device: Device) -> dict[str, Any]:
    made = msgspec.to_builtins(
        DeviceTable(
            device.index,
            device.name,
            device.bus_id,
            device.memory_bytes / 2**20 if device.memory_bytes is not None else None,
            device.numa,
            device.cpus,
            device.pcie_gen,
            device.pcie_width,
            device.compute_capability,
        )
    )
    assert isinstance(made, dict)
    return made


def _host_table(host: Host) -> dict[str, Any]:
    made = msgspec.to_builtins(
        HostTable(
            host.cpu_name,
            host.cpu_vendor,
            host.sockets,
            host.hypervisor,
            host.iommu,
            host.acs_redirect,
        )
    )
    assert isinstance(made, dict)
    return made


def _keys(table: Mapping[str, Any]) -> Iterator[str]:
    # JSON strings, numbers and booleans are valid TOML
    return (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())


def _node(table: NodeTable, where: str) -> Node:
    devices = tuple(
        Device(
            index=d.index,
            name=d.name,
            bus_id=d.bus_id,
            memory_bytes=d.memory_mib * 2**20 if d.memory_mib is not None else None,
            numa=d.numa,
            cpus=d.cpus,
            pcie_gen=d.pcie_gen,
            pcie_width=d.pcie_width,
            compute_capability=d.compute_capability,
        )
        for d in table.device
    )
    if not devices:
        raise InputError(f"{where}: no [[device]]", "allowed: one or more GPUs")
    links = {_pair(k, where): _link(k, v, where) for k, v in table.links.items()}
    peers = {_pair(k, where): v for k, v in table.peer_access.items()}
    host = Host(**{f: getattr(table.host, f) for f in HostTable.__struct_fields__})
    try:
        return Node(devices, links, peers, host=host)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _pair(key: str, where: str) -> Pair:
    found = re.fullmatch(r"(\d+)-(\d+)", key)
    if not found or int(found[1]) == int(found[2]):
        raise InputError(f"{where}: pair {key[:40]!r}", 'allowed: two different GPUs, as in "0-1"')
    a, b = int(found[1]), int(found[2])
    return (a, b) if a < b else (b, a)


def _link(key: str, code: str, where: str) -> Link:
    link = parse_link(code)
    if link is None:
        allowed = "NV1 to NV18, XGMI, PIX, PXB, PHB, NODE, PCIE, SYS"
        raise InputError(f"{where}: links.{key} = {code[:40]!r}", f"allowed: {allowed}")
    return link
