"""Parse `nvidia-smi topo -m` and `topo -p2p`: links, peer access, CPU and NUMA affinity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from shardwise.node.links import Link, parse_link
from shardwise.node.node import Device, Pair, pair
from shardwise.node.reading.matrix import GPU, NVIDIA_CELL, Matrix, matrices
from shardwise.node.reading.text import Line, Problem

TITLE: Final = re.compile(r"topo\s+-\w|GPU Topology:|NVIDIA Topology:|^\s*Legend:")
_NUMBERS: Final = re.compile(r"[\d,-]+")
_P2P: Final = {"OK": True, "CNS": False, "GNS": False, "TNS": False, "NS": False, "DR": False}
_P2P_COMMAND: Final = re.compile(r"topo\s+(?:-p2p|--p2p_capabilities)\s+(\w+)")


class Topology(msgspec.Struct, frozen=True):
    """Content of one or more matrices. `why_not` has NVIDIA's code for pairs without access."""

    devices: dict[int, Device] = msgspec.field(default_factory=dict)
    links: dict[Pair, Link] = msgspec.field(default_factory=dict)
    peer_access: dict[Pair, bool] = msgspec.field(default_factory=dict)
    why_not: dict[Pair, str] = msgspec.field(default_factory=dict)
    nic_links: dict[tuple[int, str], Link] = msgspec.field(default_factory=dict)
    problems: list[Problem] = msgspec.field(default_factory=list)


def read_nvidia(lines: Sequence[Line]) -> Topology:
    """Parse every NVIDIA matrix in the text; later ones do not overwrite earlier values."""
    made = Topology()
    for matrix in matrices(lines, TITLE):
        if not all(re.fullmatch(GPU, name) for name in matrix.devices) or not _is_nvidia(matrix):
            continue
        if _is_p2p(matrix):
            _add_peer_access(made, matrix)
        else:
            _add_links(made, matrix)
    return made


def _is_nvidia(matrix: Matrix) -> bool:
    cells = {cell for _, _, cell in matrix.cells()}
    return bool(cells - {"N/A"}) and all(map(NVIDIA_CELL.fullmatch, cells))


def _is_p2p(matrix: Matrix) -> bool:
    cells = {cell for _, _, cell in matrix.cells()} - {"X", "N/A"}
    return bool(cells) and cells <= {*_P2P, "U"}


def _add_links(made: Topology, matrix: Matrix) -> None:
    if _is_of_another(made, matrix):
        what = "another matrix, which differs from the first: only the first is read"
        made.problems.append(Problem(matrix.line, what))
        return
    made.problems.extend(matrix.problems)
    for name, column, cell in matrix.cells():
        link, a = parse_link(cell), _index(name)
        if link is None:
            continue
        if re.fullmatch(GPU, column):
            b = _index(column)
            if a != b:
                made.links.setdefault(pair(a, b), link)
        else:
            made.nic_links.setdefault((a, column), link)
    for name in matrix.devices:
        index = _index(name)
        row = matrix.rows.get(name)
        whole = row is not None and len(row.cells) == len(matrix.columns)
        said = _affinity(matrix, row.rest) if row is not None and whole else {}
        made.devices.setdefault(index, _device(index, said))


def _is_of_another(made: Topology, matrix: Matrix) -> bool:
    """Return whether a matrix of links must be of a different machine than the first one."""
    if not made.links:
        return False
    if {_index(name) for name in matrix.devices} != set(made.devices):
        return True
    said = [
        (made.links.get(pair(_index(name), _index(column))), parse_link(cell))
        for name, column, cell in matrix.cells()
        if re.fullmatch(GPU, column) and name != column
    ]
    return any(old and new and old != new for old, new in said)


def _add_peer_access(made: Topology, matrix: Matrix) -> None:
    """Add read and write access. The NVLink, atomics and property matrices are skipped."""
    asked = _P2P_COMMAND.search(matrix.title)
    if asked and asked[1] not in ("r", "w", "rw"):
        return
    made.problems.extend(matrix.problems)
    for name, column, cell in matrix.cells():
        a, b = _index(name), _index(column)
        if a == b or cell not in _P2P:
            continue
        key = pair(a, b)
        made.peer_access[key] = _P2P[cell] and made.peer_access.get(key, True)
        if not _P2P[cell]:
            made.why_not.setdefault(key, cell)
    for name in matrix.devices:
        made.devices.setdefault(_index(name), Device(_index(name)))


def _index(name: str) -> int:
    return int(name.removeprefix("GPU"))


def _device(index: int, said: dict[str, str]) -> Device:
    numa = said.get("numa affinity", "")
    own = said.get("gpu numa id", "")
    return Device(
        index=index,
        numa=int(numa) if numa.isdigit() else None,
        numa_affinity=numa,
        cpus=said.get("cpu affinity", ""),
        gpu_numa_id=int(own) if own.isdigit() else None,
    )


def _affinity(matrix: Matrix, rest: str) -> dict[str, str]:
    """Return the affinity columns of a row by header name.

    If all are present they are in header order. If some are empty, N/A is the GPU's own NUMA node;
    the others are assigned by tabs, or by form: CPUs are usually a range.
    """
    rest = rest.replace("|", " ")
    names, words = matrix.tail, rest.split()
    if not names or not words:
        return {}
    if len(words) >= len(names):
        return _without_na(dict(zip(names, words, strict=False)))
    by_tab = [part.strip() for part in rest.lstrip(" ").removeprefix("\t").split("\t")]
    if "\t" in rest and len(by_tab) >= len(names):
        return _without_na(dict(zip(names, by_tab, strict=False)))
    said: dict[str, str] = {}
    for word in words:
        if word == "N/A":
            continue
        is_range = re.search(r"[-,]", word) is not None
        column = "cpu affinity" if is_range and "cpu affinity" not in said else "numa affinity"
        if column in names:
            said.setdefault(column, word)
    return said


def _without_na(said: dict[str, str]) -> dict[str, str]:
    """Return the values; none if a word is not a list of numbers, because columns are shifted."""
    words = {name: word for name, word in said.items() if word and word != "N/A"}
    return words if all(_NUMBERS.fullmatch(word) for word in words.values()) else {}
