"""Parse `rocm-smi` and `amd-smi`: device ids, memory, power caps and partitions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from shardwise.node.node import Device
from shardwise.node.reading.smi_nvidia import Smi
from shardwise.node.reading.text import Line

#: PCI device ids of AMD's accelerators. Source: the PCI ID repository, vendor 1002.
NAMES: Final = {
    "0x738c": "AMD Instinct MI100",
    "0x740c": "AMD Instinct MI250X",
    "0x7408": "AMD Instinct MI250X",
    "0x740f": "AMD Instinct MI210",
    "0x74a0": "AMD Instinct MI300A",
    "0x74a1": "AMD Instinct MI300X",
    "0x74b5": "AMD Instinct MI300X",
    "0x74a2": "AMD Instinct MI308X",
    "0x74a5": "AMD Instinct MI325X",
    "0x75a0": "AMD Instinct MI350X",
    "0x75a3": "AMD Instinct MI355X",
}
_VALUE: Final = re.compile(r"GPU\s*\[(\d+)\]\s*:\s*([^:]+?)\s*:\s*(.+?)\s*$")
_CONCISE: Final = re.compile(
    r"^\s*(\d+)\s+\d+\s+(0x[0-9a-f]{4}),?\s+\d+\s+\S+\s+\S+\s+(NPS\d),\s*(\w+),", re.IGNORECASE
)
_CAP: Final = re.compile(r"(\d+(?:\.\d+)?)W\s+(\d+)%\s+\d+%\s*$")
_DRIVER: Final = re.compile(r"(?:Driver version|amdgpu version)\s*:\s*([\w.-]+)", re.IGNORECASE)


#: `amd-smi static`: a block per GPU, "GPU: 0" followed by indented "NAME: value" lines.
_BLOCK: Final = re.compile(r"^\W*GPU:\s*(\d+)\s*$")
_BLOCK_VALUE: Final = re.compile(
    r"^\s+(MARKET_NAME|DEVICE_ID|BDF|SIZE|NODE|MAX_PCIE_WIDTH|PCIE_INTERFACE_VERSION|MAX_POWER"
    r"|COMPUTE_PARTITION|MEMORY_PARTITION):\s*(\S.*?)\s*$"
)
#: `amd-smi` without a command: two lines per GPU, bus and name above index, partition and memory.
_MONITOR_NAME: Final = re.compile(
    r"^\W*([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d)\s+(\S[^|]*?)\s*\|(?:.*?/(\d+)\s*W\b)?",
    re.IGNORECASE,
)
_MONITOR_REST: Final = re.compile(
    r"^\W*(\d+)\s+(?:\d+|N/A)\s+(?:\d+|N/A)\s+(\w+)/(NPS\d|N/A)\s*\|.*?(\d+)/(\d+)\s*MB\b"
)
_MIB: Final = 2.0**20


def read_amd_smi(lines: Sequence[Line]) -> Smi:
    """Return the devices in rocm-smi's table and `GPU[n] : what : value` lines, `amd-smi` and
    `amd-smi static`.
    """
    devices: dict[int, Device] = {}
    driver, block = "", -1
    for at, line in enumerate(lines):
        if found := _BLOCK.search(line.text):
            block = int(found[1])
        elif block >= 0 and (found := _BLOCK_VALUE.search(line.text)):
            old = devices.get(block, Device(block))
            devices[block] = _with_block_value(old, found[1], found[2])
        made = _monitored(line.text, lines[at + 1].text if at + 1 < len(lines) else "")
        if made is not None:
            devices[made.index] = made
        driver = driver or (found[1] if (found := _DRIVER.search(line.text)) else "")
        if found := _CONCISE.search(line.text):
            index = int(found[1])
            wrapped = lines[at + 1].text if at + 1 < len(lines) else ""
            cap = _CAP.search(line.text) or _CAP.search(line.text + wrapped)
            devices[index] = replace(
                devices.get(index, Device(index)),
                name=NAMES.get(found[2].lower(), found[2].lower()),
                partition=f"{found[3]}, {found[4]}",
                power_cap_w=float(cap[1]) if cap else None,
            )
        elif found := _VALUE.search(line.text):
            index = int(found[1])
            made = _with_value(devices.get(index, Device(index)), found[2], found[3])
            if made is not None:
                devices[index] = made
    return Smi(devices, [], driver)


def _monitored(first: str, second: str) -> Device | None:
    """Return the GPU in two lines of amd-smi's overview; None for other lines."""
    named, rest = _MONITOR_NAME.search(first), _MONITOR_REST.search(second)
    if named is None or rest is None:
        return None
    return Device(
        int(rest[1]),
        name=named[2],
        bus_id=named[1],
        memory_bytes=int(rest[5]) * _MIB,
        used_bytes=int(rest[4]) * _MIB,
        power_cap_w=float(named[3]) if named[3] else None,
        partition=f"{rest[3]}, {rest[2]}",
    )


def _with_block_value(device: Device, name: str, value: str) -> Device:
    """Return `device` with one line of an `amd-smi static` block; N/A is skipped."""
    number = re.match(r"(?:Gen )?(\d+)", value)
    known = NAMES.get(value.lower(), "") if name == "DEVICE_ID" else value
    if name in ("MARKET_NAME", "DEVICE_ID"):
        # a GPU without a name is named by its device id
        return replace(device, name=device.name or known) if known != "N/A" else device
    if name.endswith("_PARTITION"):
        parts = {*device.partition.split(", "), value} - {"", "N/A"}
        # memory partition before compute partition, as in rocm-smi
        memory_first = sorted(parts, key=lambda part: not part.startswith("NPS"))
        return replace(device, partition=", ".join(memory_first))
    if name == "BDF":
        return replace(device, bus_id=value)
    if number is None or (name == "SIZE" and not value.endswith("MB")):
        return device
    said = int(number[1])
    changed: dict[str, dict[str, float]] = {
        "SIZE": {"memory_bytes": said * _MIB},
        "MAX_PCIE_WIDTH": {"pcie_width": said},
        "PCIE_INTERFACE_VERSION": {"pcie_gen": said},
        "MAX_POWER": {"power_cap_w": float(said)},
        "NODE": {"numa": said},
    }
    return replace(device, **changed[name])


def _with_value(device: Device, what: str, value: str) -> Device | None:
    """Return `device` with one named value; None for a name that is not used."""
    name = what.lower()
    if name == "vram total memory (b)" and value.isdigit():
        return replace(device, memory_bytes=float(value))
    if name == "vram total used memory (b)" and value.isdigit():
        return replace(device, used_bytes=float(value))
    if name in ("card series", "device name", "market name") and "N/A" not in value:
        return replace(device, name=value)
    if name == "device id" and value.lower() in NAMES and not device.name:
        return replace(device, name=NAMES[value.lower()])
    if name == "pci bus":
        return replace(device, bus_id=value)
    return None
