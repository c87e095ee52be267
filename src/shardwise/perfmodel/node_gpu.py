"""Use a node file as a catalogue entry: its GPU, with the all-reduce times of its links."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.files import read_utf8
from shardwise.hardware.catalogue import Catalogue
from shardwise.hardware.gpu import AllReduceLine, Gpu, Interconnect
from shardwise.node.files import read
from shardwise.node.generations import catalogue_gpu, gpu_named, name_of
from shardwise.node.node import Node
from shardwise.node.placement import Placement, best, placements, tp_sizes
from shardwise.perfmodel.collectives import from_topology
from shardwise.perfmodel.node_all_reduce import ENGINES, choose
from shardwise.perfmodel.node_cost import CostFunction, measured_costs

#: Message sizes (bytes) that determine the latency and the rate of a line: those of a decode step
#: of one sequence and of a prefill of 1,024 tokens (hidden size 8192, 16 bits).
_SMALL, _LARGE = 16 * 2**10, 16 * 2**20
_ENGINE: Final = "vllm"
#: Bytes/s of one PCIe 4.0 lane in one direction; each generation doubles it. Source: PCI-SIG.
_LANE_4: Final = 2e9
#: Relative difference of memory from the catalogue above which the board is a different one of the
#: same name.
_SAME_MEMORY: Final = 0.02


class NodeFile(msgspec.Struct, frozen=True):
    """A node file as commands use it: the GPU's id, the number of GPUs, and the node."""

    gpu: str
    gpus: int
    node: Node


def is_node_file(path: Path) -> bool:
    """Whether `path` describes a node (it has `[[device]]`) rather than GPUs of the catalogue."""
    try:
        return "device" in tomllib.loads(read_utf8(path))
    except (OSError, InputError, tomllib.TOMLDecodeError):
        return False  # the caller that reads it reports the error


def node_file(path: Path, catalogue: Catalogue, gpu: str = "", gpus: int | None = None) -> NodeFile:
    """Read the node at `path`. `gpu` names its GPUs if the file does not.

    Args:
        path: File written by `shardwise doctor --save`.
        catalogue: Where the GPU is looked up.
        gpu: Id given by the user; empty: the file names the GPUs.
        gpus: Number of GPUs to use; None: all.

    Raises:
        InputError: The file cannot be read, has GPUs of different or unknown kinds, or contradicts
            `gpu` or `gpus`.
    """
    node = read(path)
    names = sorted({device.name for device in node.devices} - {""})
    if len(names) > 1:
        raise InputError(
            f"{path}: a node of {', '.join(names)}", "allowed: GPUs of one kind", "split the file"
        )
    found = gpu_named(catalogue, name_of(node))
    given = catalogue.gpu(gpu) if gpu else None
    if found is not None and given is not None and found.id != given.id:
        raise InputError(
            f"{path} is a node of {found.id}, and --gpu says {given.id}", "", "leave --gpu out"
        )
    known = found or given
    if known is None:
        what = f"GPU {names[0]!r} is not in the catalogue" if names else "the GPUs have no name"
        raise InputError(f"{path}: {what}", "", "pass --gpu", field="gpu")
    count = len(node.devices)
    if gpus is not None and not 1 <= gpus <= count:
        raise InputError(f"--gpus {gpus} on {path}", f"allowed: 1 to {count}", field="gpus")
    return NodeFile(known.id, gpus or count, node)


def with_node(catalogue: Catalogue, path: Path, gpu: str, engine: str) -> Catalogue:
    """Return `catalogue` with the GPU of the node at `path` adapted to that node.

    `gpu` is used if the file does not name its GPUs.
    """
    node = read(path)
    known = gpu_named(catalogue, name_of(node)) or (catalogue.gpu(gpu) if gpu else None)
    if known is None:
        return catalogue
    return replace(catalogue, by_id={**catalogue.by_id, known.id: gpu_on(node, known, engine)})


def gpu_of(node: Node) -> Gpu | None:
    """Return the GPU of the default catalogue that `node` names; None if it is unknown."""
    return catalogue_gpu(name_of(node))


def gpu_on(node: Node, gpu: Gpu, engine: str = _ENGINE, cost: CostFunction = measured_costs) -> Gpu:
    """Return `gpu` adapted to `node`: with the memory that the node reports, and with an all-reduce
    line for each TP size unless the node's links are those of the catalogue."""
    count = len(node.devices)
    gpu = replace(with_memory(node, gpu), interconnect=replace(gpu.interconnect, max_world=count))
    if node.fully_connected(node.indices) and gpu.interconnect.topology_of(count) != "pcie":
        return gpu
    engine = engine if engine in ENGINES else _ENGINE
    lines: dict[int, AllReduceLine] = {}
    sources = set()
    for size in (s for s in tp_sizes(node) if s > 1):
        found = _line(node, size, engine, cost)
        if found is None:
            found = _guessed(gpu, best(node, size), list(lines.values()))
        lines[size] = found[0]
        sources |= found[1]
    if not lines:
        return gpu
    return replace(
        gpu, all_reduce=lines, all_reduce_source=f"node file: {', '.join(sorted(sources))}"
    )


def device_order(node: Node, tp_size: int) -> tuple[int, ...]:
    """Order the GPUs so that each run of `tp_size` is a good group. Unused GPUs come last."""
    grouped = [i for placed in placements(node, tp_size) for i in placed.devices]
    return (*grouped, *(i for i in node.indices if i not in grouped))


def device_order_of(files: Sequence[Path], gpu: str, tp_size: int) -> tuple[int, ...]:
    """Return the order in which replicas of `tp_size` use the GPUs of the node file in `files`.

    Empty, which means the default numbering, without a node file or if it has other GPUs than
    `gpu`.
    """
    path = next((path for path in files if is_node_file(path)), None)
    if path is None:
        return ()
    node = read(path)
    named = gpu_of(node)
    if tp_size > len(node.devices) or (named is not None and named.id != gpu):
        return ()
    return device_order(node, tp_size)


def with_memory(node: Node, gpu: Gpu) -> Gpu:
    """Return `gpu` with the smallest memory that a device of `node` reports, if that differs from
    the catalogue."""
    reported = [d.memory_bytes for d in node.devices if d.memory_bytes is not None]
    if not reported or abs(min(reported) / gpu.memory_bytes - 1) <= _SAME_MEMORY:
        return gpu
    lost = gpu.memory_bytes - gpu.visible_memory_bytes
    return replace(gpu, memory_bytes=min(reported), runtime_memory_bytes=min(reported) - lost)


def _line(
    node: Node, size: int, engine: str, cost: CostFunction
) -> tuple[AllReduceLine, set[str]] | None:
    """Return latency and rate on the best group, and their sources. If measured machines of this
    kind differ, take the geometric mean. None if nothing similar was measured."""
    placed = best(node, size)
    taken = choose(engine, placed)
    small, large = cost(placed, taken), cost(placed, replace(taken, library="nccl"))
    if node.vendor == "amd" or not large:
        large = small
    if not small:
        return None
    first = _mean([each.seconds(_SMALL) for each in small])
    last = _mean([each.seconds(_LARGE) for each in large])
    return _through(first, last), {each.source for each in (*small, *large)}


def _guessed(
    gpu: Gpu, placed: Placement, smaller: Sequence[AllReduceLine]
) -> tuple[AllReduceLine, set[str]]:
    """Estimate a line from the link rate, no faster than the lines of fewer ranks."""
    size, slowest = len(placed.devices), placed.slowest
    link = gpu.interconnect
    if slowest is None or not slowest.direct:
        link = Interconnect("PCIe", "pcie", _pcie_rate(placed), 1, size)
    lines = from_topology(link)
    times = [
        float(lines.time(np.array([float(size)]), np.array([float(message)]))[0])
        for message in (_SMALL, _LARGE)
    ]
    for other in smaller:
        times = [
            max(known, other.latency_s + message / other.bytes_per_s)
            for known, message in zip(times, (_SMALL, _LARGE), strict=True)
        ]
    return _through(*times), {f"a guess for TP={size}"}


def _pcie_rate(placed: Placement) -> float:
    """Bytes/s of the slowest PCIe link of the GPUs. PCIe 4.0 x16 is assumed if not reported."""
    devices = [placed.node.device(i) for i in placed.devices]
    return min(_LANE_4 * 2.0 ** ((d.pcie_gen or 4) - 4) * (d.pcie_width or 16) for d in devices)


def _through(small_s: float, large_s: float) -> AllReduceLine:
    return AllReduceLine(small_s, _LARGE / max(large_s - small_s, 1e-9))


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
