"""Parse `nvidia-smi`: table, list (-L), blocks (-q), CSV (--query-gpu) and error lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.node.node import Device
from shardwise.node.reading.text import Line

_MIB: Final = 2.0**20
_DRIVER: Final = re.compile(r"Driver Version:\s*([\d.]+)", re.IGNORECASE)
_ROW: Final = re.compile(
    r"\|\s*(\d+)\s+(\S.*?)\s+(?:On|Off|N/A)\s*\|\s*([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)\b"
)
#: Drivers from 560 on may omit the persistence mode after the name.
_ROW_SHORT: Final = re.compile(
    r"\|\s*(\d+)\s+(\S[^|]*?)\s*\|\s*([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)\b"
)
_MEMORY: Final = re.compile(r"(\d+)\s*MiB\s*/\s*(\d+)\s*MiB")
_POWER: Final = re.compile(r"(\d+)\s*W\s*/\s*(\d+)\s*W")
_MIG: Final = re.compile(r"\|\s*(Enabled|Disabled|N/A)\*?\s*\|\s*$")
_LISTED: Final = re.compile(r"\bGPU (\d+): ([^(]+?)\s*\(UUID: GPU-")
_LOST: Final = re.compile(
    r"Unable to determine the device handle for (?:GPU|gpu)\s*(?:\d{1,2}:\s*)?"
    r"([0-9A-Fa-f]{3,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d):\s*(.+?)\s*$"
)
#: The kernel's three-line message for a GPU that it cannot initialize.
_FALLEN: Final = re.compile(r"NVRM: The NVIDIA GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)")
#: Xids after which a GPU needs a reset: off the bus, or its firmware does not respond.
_XID: Final = re.compile(
    r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (79|119|120),(?: pid=\S*,)?(?: name=\S*,)?\s*(.+?)\s*$"
)
#: Messages of nvidia-smi if it finds no GPU.
_NO_DRIVER: Final = re.compile(
    r"NVIDIA-SMI has failed because .+|Failed to initialize NVML: .+|No devices were found"
)
_CSV_HEAD: Final = re.compile(
    r"^\s*(?:index|name|pci\.bus_id|uuid)\b.*,.*\[MiB\]|^\s*index,\s*name\b"
)


#: A query whose output has no header.
_CSV_COMMAND: Final = re.compile(r"nvidia-smi\b.*--query-gpu=([\w.,]+)")


#: `nvidia-smi -q`: a block per GPU, without its index, with indented keys under headings.
_DETAILED: Final = re.compile(r"^GPU ([0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d)\s*$")
_DETAIL: Final = re.compile(r"^\s+(\w[\w. -]*?)\s*(?::\s*(\S.*?))?\s*$")


class FailedGpu(msgspec.Struct, frozen=True):
    """A GPU that the driver cannot reach; without a bus id, all GPUs."""

    bus_id: str
    what: str
    line: int


class Smi(msgspec.Struct, frozen=True):
    """Devices by index, the driver, and GPUs in error."""

    devices: dict[int, Device] = msgspec.field(default_factory=dict)
    failed: list[FailedGpu] = msgspec.field(default_factory=list)
    driver: str = ""


def read_smi(lines: Sequence[Line]) -> Smi:
    """Parse nvidia-smi's output in `lines`; other lines are skipped."""
    devices: dict[int, Device] = {}
    failed, driver, current = [], "", -1
    for at, line in enumerate(lines):
        text = line.text
        if found := _FALLEN.search(text):
            near = " ".join(other.text for other in lines[at : at + 4])
            if "fallen off the bus" in near:
                failed.append(FailedGpu(found[1], "it has fallen off the bus", line.number))
        driver = driver or (found[1] if (found := _DRIVER.search(text)) else "")
        if found := _LOST.search(text):
            failed.append(FailedGpu(found[1], found[2], line.number))
        elif found := _XID.search(text):
            failed.append(FailedGpu(found[1], f"Xid {found[2]}: {found[3]}", line.number))
        elif found := _NO_DRIVER.search(text):
            failed.append(FailedGpu("", found[0].strip(), line.number))
        if found := _LISTED.search(text):
            index = int(found[1])
            devices.setdefault(index, Device(index, name=found[2]))
        row = _ROW.search(text) or _ROW_SHORT.search(text)
        if row:
            current = int(row[1])
            devices.setdefault(current, Device(current, name=_name(row[2]), bus_id=row[3]))
            if "ERR!" in text:
                failed.append(FailedGpu(row[3], "ERR! in nvidia-smi", line.number))
        elif current in devices:
            devices[current] = _with_usage(devices[current], text)
    devices |= _from_csv(lines)
    devices |= _from_blocks(lines)
    return Smi(devices, failed, driver)


def _name(text: str) -> str:
    """Return the name without the driver mode, which is in the same cell on Windows."""
    return re.sub(r"\s+(?:WDDM|TCC|MCDM)$", "", re.sub(r"\s+", " ", text).strip())


def _with_usage(device: Device, text: str) -> Device:
    """Return `device` with power, memory and MIG from its second and third line."""
    if device.memory_bytes is None and (memory := _MEMORY.search(text)):
        power = _POWER.search(text)
        return replace(
            device,
            used_bytes=int(memory[1]) * _MIB,
            memory_bytes=int(memory[2]) * _MIB,
            power_cap_w=float(power[2]) if power else None,
        )
    if (mig := _MIG.search(text)) and mig[1] == "Enabled":
        return replace(device, mig=True)
    return device


def _from_blocks(lines: Sequence[Line]) -> dict[int, Device]:
    """Return the GPUs of `nvidia-smi -q`, numbered in order of appearance."""
    devices: dict[int, Device] = {}
    heading, current = "", -1
    for line in lines:
        if found := _DETAILED.search(line.text):
            current += 1
            devices[current] = Device(current, bus_id=found[1])
        elif current >= 0 and (said := _DETAIL.search(line.text)):
            if said[2] is None:
                heading = said[1]
            else:
                devices[current] = _with_detail(devices[current], heading, said[1], said[2])
    return devices


def _with_detail(device: Device, heading: str, key: str, value: str) -> Device:
    number = re.match(r"\d+", value)
    if key == "Product Name":
        return replace(device, name=value)
    if (heading, key) == ("MIG Mode", "Current"):
        return replace(device, mig=value == "Enabled")
    if number is None:
        return device
    said = int(number[0])
    changed: dict[tuple[str, str], dict[str, float]] = {
        ("FB Memory Usage", "Total"): {"memory_bytes": said * _MIB},
        ("FB Memory Usage", "Used"): {"used_bytes": said * _MIB},
        ("PCIe Generation", "Max"): {"pcie_gen": said},
        ("Link Width", "Max"): {"pcie_width": said},
    }
    return replace(device, **changed.get((heading, key), {}))


def _from_csv(lines: Sequence[Line]) -> dict[int, Device]:
    """Return the GPUs of `--query-gpu=... --format=csv`, by the names in its header."""
    devices: dict[int, Device] = {}
    header: list[str] = []
    for line in lines:
        if asked := _CSV_COMMAND.search(line.text):
            header = asked[1].split(",") if "noheader" in line.text else []
            continue
        if _CSV_HEAD.search(line.text):
            header = [re.sub(r"\s*\[.*\]", "", part).strip() for part in line.text.split(",")]
            continue
        if not header:
            continue
        parts = [part.strip() for part in next(csv.reader([line.text]), [])]
        if len(parts) != len(header):
            header = header if not line.text.strip() else []
            continue
        row = dict(zip(header, parts, strict=True))
        index = int(row["index"]) if row.get("index", "").isdigit() else len(devices)
        devices[index] = _csv_device(index, row)
    return devices


def _csv_device(index: int, row: Mapping[str, str]) -> Device:
    def number(key: str) -> float | None:
        found = re.match(r"[\d.]+", row.get(key, ""))
        return float(found[0]) if found else None

    total, used = number("memory.total"), number("memory.used")
    gen = number("pcie.link.gen.max")  # the current PCIe generation drops while a GPU is idle
    width = number("pcie.link.width.max") or number("pcie.link.width.current")
    return Device(
        index,
        name=row.get("name", ""),
        bus_id=row.get("pci.bus_id", ""),
        memory_bytes=total * _MIB if total is not None else None,
        used_bytes=used * _MIB if used is not None else None,
        pcie_gen=int(gen) if gen else None,
        pcie_width=int(width) if width else None,
        power_cap_w=number("power.limit"),
        mig=row.get("mig.mode.current") == "Enabled",
        compute_capability=row.get("compute_cap", "").replace("[N/A]", ""),
    )
