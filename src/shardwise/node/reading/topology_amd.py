"""Parse `rocm-smi --showtopo` and `amd-smi topology`: weights, hops, types, access, NUMA."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from shardwise.node.links import Link
from shardwise.node.node import Device, Pair, pair
from shardwise.node.reading.matrix import AMD_CELL, GPU, Matrix, matrices
from shardwise.node.reading.text import Line
from shardwise.node.reading.topology_nvidia import Topology

TITLE: Final = re.compile(
    r"(?P<what>Weight|Hops|Link Type|(?:Link )?Accessibility|Bandwidth)\s+between\s+two\s+GPUs"
    r"|^\W*(?P<table>(?-i:[A-Z-]+(?: [A-Z-]+){0,3})) (?-i:TABLE):?\s*$",
    re.IGNORECASE,
)
#: Tables that are read. The others (bandwidth, coherence, atomics, DMA) do not describe the path.
_READ: Final = ("weight", "hops", "link type", "access", "accessibility", "link accessibility")
_NUMA: Final = re.compile(
    r"GPU\s*\[?(\d+)\]?\s*:\s*\(Topology\)\s*Numa\s+(Node|Affinity):\s*(-?\d+)", re.IGNORECASE
)
#: The driver's weight of one XGMI hop. rocm-smi prints the sum over the path; over PCIe it is at
#: least 20 and not a multiple of 15. Source: vllm-project/vllm issues 16840 and 40771 (an MI250
#: node: 15, 30, 45).
_XGMI_STEP: Final = 15
_ACCESS: Final = {"ENABLED": True, "DISABLED": False, "True": True, "False": False}


def read_amd(lines: Sequence[Line]) -> Topology:
    """Return links from the table of link types, else from weights, else from hops.

    Between the GPUs of an MI250 node, one hop means a path over XGMI, not a direct link. If weights
    are known, they take precedence.
    """
    made = Topology()
    tables = [m for m in matrices(lines, TITLE) if _is_amd(m) and _what(m) in _READ]
    numbers = _numbers(tables)
    for table in tables:
        made.problems.extend(table.problems)
        for name in table.devices:
            index = numbers[name]
            bus = "" if re.fullmatch(GPU, name) else name
            made.devices.setdefault(index, Device(index, bus_id=bus))
    weights = _values(tables, numbers, "weight")
    hops = _values(tables, numbers, "hops")
    types = _values(tables, numbers, "link type")
    for key in sorted({*weights, *hops, *types}):
        link = _link(types.get(key, ""), weights.get(key, ""), hops.get(key, ""))
        if link is not None:
            made.links[key] = link
    for what in _READ[3:]:
        for key, cell in _values(tables, numbers, what).items():
            if cell in _ACCESS:
                made.peer_access[key] = _ACCESS[cell]
    _add_numa(made, lines)
    return made


def _is_amd(matrix: Matrix) -> bool:
    return bool(matrix.rows) and all(AMD_CELL.fullmatch(cell) for _, _, cell in matrix.cells())


def _what(table: Matrix) -> str:
    """Return "weight", "hops", "link type" or "access", from the title or else from the cells."""
    found = TITLE.search(table.title)
    if found:
        return re.sub(r"\s+", " ", (found["what"] or found["table"] or "")).lower().strip()
    cells = {cell for name, column, cell in table.cells() if name != column}
    if cells & {"XGMI", "PCIE"}:
        return "link type"
    if cells & set(_ACCESS):
        return "access"
    largest = max((int(cell) for cell in cells if cell.isdigit()), default=0)
    return "weight" if largest >= _XGMI_STEP else "hops"


def _numbers(tables: Sequence[Matrix]) -> Mapping[str, int]:
    """Return device indices: n for GPUn; bus ids are numbered in column order."""
    numbers: dict[str, int] = {}
    for table in tables:
        for position, name in enumerate(table.devices):
            index = int(name.removeprefix("GPU")) if re.fullmatch(GPU, name) else position
            numbers.setdefault(name, index)
    return numbers


def _values(tables: Sequence[Matrix], numbers: Mapping[str, int], what: str) -> Mapping[Pair, str]:
    found: dict[Pair, str] = {}
    for table in tables:
        if _what(table) != what:
            continue
        for name, column, cell in table.cells():
            a, b = numbers[name], numbers[column]
            if a != b:
                found.setdefault(pair(a, b), cell)
    return found


def _link(kind: str, weight: str, hops: str) -> Link | None:
    """Return the link of a pair from the available tables; None if they have none."""
    steps = int(weight) // _XGMI_STEP if weight.isdigit() and int(weight) >= _XGMI_STEP else None
    if kind == "PCIE":
        return Link("PCIE")
    if kind == "XGMI":
        return Link("XGMI", hops=steps or _direct(hops))
    if kind:
        return None
    if weight.isdigit() and int(weight):
        return Link("XGMI", hops=steps) if int(weight) % _XGMI_STEP == 0 else Link("PCIE")
    # one hop is reported both for a direct XGMI link and for an XGMI path
    return Link("XGMI", hops=None) if hops == "1" else Link("PCIE") if hops.isdigit() else None


def _direct(hops: str) -> int | None:
    """Return the XGMI hops without a weight; None for one hop, which may be a longer path."""
    return int(hops) if hops.isdigit() and hops != "1" else None


def _add_numa(made: Topology, lines: Sequence[Line]) -> None:
    said: dict[int, dict[str, str]] = {}
    for line in lines:
        for index, what, value in _NUMA.findall(line.text):
            said.setdefault(int(index), {})[what.lower()] = value
    for index, values in said.items():
        numa = values.get("node", values.get("affinity", ""))
        old = made.devices.get(index, Device(index))
        made.devices[index] = Device(
            index,
            bus_id=old.bus_id,
            numa=int(numa) if numa.isdigit() else None,
            numa_affinity=values.get("affinity", numa),
        )
