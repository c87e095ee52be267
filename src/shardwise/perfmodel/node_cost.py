"""Time of an all-reduce on a placement, from measurements of this GPU or of a named stand-in.

A diagnosis accepts any `CostFunction`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from typing import Final

import msgspec
import numpy as np

from shardwise.hardware.gpu import Gpu, Interconnect
from shardwise.kernels import Provenance, all_reduce
from shardwise.node.generations import catalogue_gpu, name_of
from shardwise.node.links import Link
from shardwise.node.placement import Placement
from shardwise.perfmodel.collectives import AllReduce as Lines
from shardwise.perfmodel.collectives import from_topology
from shardwise.perfmodel.node_all_reduce import AllReduce
from shardwise.perfmodel.profiles import Line, bundled_profile

#: Measured PCIe nodes, from slow to fast. Times differ by a factor of 3 to 6 at the same size. They
#: depend on switches, sockets and peer access, which a topology matrix states only in part.
_PCIE: Final = ("l40s", "rtx-pro-6000")
#: Measured GPU that stands in for others with the same number of NVLinks of the same rate.
_BY_NVLINKS: Final = {18: "h100", 12: "a100-80gb"}
#: Measured boards with bridges between pairs: four ranks, NCCL of 2023, eager launches.
_PAIRWISE: Final = {18: "h100-pairwise-nvlink"}
_PAIRWISE_DEFAULT: Final = "a100-80gb-pairwise-nvlink"
#: Bytes/s of one NVLink in one direction: 25 GB/s from V100 to H100, 50 GB/s on data-center
#: Blackwell. The bridge of a GeForce or workstation card has 112.5 GB/s over four links, both
#: directions together. Source: NVIDIA's datasheets (as commonly quoted, unchecked).
_NVLINK_RATE: Final = 25e9
_NVLINK5_RATE: Final = 50e9
_BRIDGE_RATE: Final = 14.0625e9
#: Numbers of ranks in the tables; a message size (bytes) within all of them; and the table's
#: (engine, algorithm) of each library.
_RANKS: Final = (2, 4, 8)
_PROBE: Final = 512 * 2**10
_TABLES: Final = {"nccl": ("nccl", "nccl"), "rccl": ("rccl", "nccl")}
_LIBRARIES: Final = {
    "nccl": "NCCL",
    "rccl": "RCCL",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "fastest": "the fastest kernels",
}


class _Measured(msgspec.Struct, frozen=True):
    provenance: str
    lines: list[Line]


class Cost(msgspec.Struct, frozen=True):
    """The time of an all-reduce by message size, and where it comes from."""

    seconds: Callable[[float], float]  #: of a message's bytes
    source: str  #: such as "NCCL on NVIDIA L40S"
    grade: str  #: "measured" on this GPU, "stand-in" from another, "guess" from link rates


CostFunction = Callable[[Placement, AllReduce], tuple[Cost, ...]]


def measured_costs(placement: Placement, taken: AllReduce) -> tuple[Cost, ...]:
    """Return the costs of `taken` on `placement`, slowest first; empty if none is known.

    Several costs mean that measured machines of this kind differ; the node is assumed to lie
    between them.
    """
    if taken.tp_size < 2 or placement.slowest is None:
        return ()
    known = _catalogue_id(placement)
    if placement.fully_connected:
        return _direct(placement, taken, known)
    if placement.node.vendor == "amd":
        return ()
    linked = any(link and link.direct for link in placement.ring_links)
    if taken.tp_size == 4 and linked:
        return _pairwise(placement, known)
    # a ring of bridged groups crosses PCIe in few places, so the slowest PCIe node does not apply
    unmeasured = _PCIE[-1:] if linked else _PCIE
    candidates = (known,) if known in _PCIE else unmeasured
    found = [_measured(gpu, taken, gpu == known) for gpu in candidates if gpu]
    return tuple(cost for cost in found if cost is not None)


def _direct(placement: Placement, taken: AllReduce, known: str) -> tuple[Cost, ...]:
    own = _measured(known, taken, True) if known else None
    if own:
        return (own,)
    slowest = placement.slowest
    assert slowest is not None
    if slowest.kind == "XGMI":
        stand_in = _measured("mi300x", taken, False) if len(placement.node.devices) == 8 else None
        return (stand_in,) if stand_in else ()
    other = _BY_NVLINKS.get(slowest.count)
    stand_in = _measured(other, taken, False) if other else None
    return (stand_in,) if stand_in else (_guess(placement, slowest),)


def _pairwise(placement: Placement, known: str) -> tuple[Cost, ...]:
    counts = [link.count for link in placement.ring_links if link and link.kind == "NVLINK"]
    gpu = _PAIRWISE.get(max(counts, default=0), _PAIRWISE_DEFAULT)
    line = next(line for line in _lines() if line.gpu == gpu and line.world_size == 4)
    board = "H100" if gpu.startswith("h100") else "A100 80GB"
    source = f"NCCL (of 2023) on four {board} in bridged pairs"
    return (
        Cost(
            _along(_of(line)), source, "measured" if known and gpu.startswith(known) else "stand-in"
        ),
    )


def _measured(gpu: str, taken: AllReduce, own: bool) -> Cost | None:
    """Cost of `taken` on `gpu` for the next measured number of ranks: a table, else a line."""
    grade = "measured" if own else "stand-in"
    known = catalogue_gpu(gpu)
    ranks = next((size for size in _RANKS if size >= taken.tp_size), None)
    # for AMD's own kernels, tables have few sizes from several builds; lines have the fastest
    if known and ranks and (taken.library != "custom" or known.vendor == "nvidia"):
        engine, algorithm = _TABLES.get(taken.library, (taken.engine, "graph"))
        if _tabled(known, engine, ranks, algorithm):
            source = f"{_LIBRARIES.get(engine, engine)} on {known.name}"
            return Cost(partial(_looked_up, known, engine, ranks, algorithm), source, grade)
    libraries = (taken.engine, "fastest") if taken.library == "custom" else ("nccl", "fastest")
    for library in libraries:
        found = [x for x in _lines() if x.gpu == gpu and x.library == library]
        fits = [x for x in found if x.world_size >= taken.tp_size]
        if fits:
            line = min(fits, key=lambda x: x.world_size)
            source = f"{_LIBRARIES.get(library, library)} on {known.name if known else gpu}"
            return Cost(_along(_of(line)), source, grade)
    return None


def _tabled(gpu: Gpu, engine: str, ranks: int, algorithm: str) -> bool:
    """Whether exactly this GPU, engine and number of ranks were measured."""
    found = all_reduce(gpu, engine, ranks, _PROBE, algorithm)
    nearest = Provenance(int(found.provenance.flat[0]))
    return nearest <= Provenance.INTERPOLATED and float(found.distance.flat[0]) < 1.0


def _looked_up(gpu: Gpu, engine: str, ranks: int, algorithm: str, message_bytes: float) -> float:
    return float(all_reduce(gpu, engine, ranks, message_bytes, algorithm).seconds)


def _along(lines: Lines) -> Callable[[float], float]:
    return lambda message_bytes: float(lines.time(np.asarray([message_bytes]))[0])


def _guess(placement: Placement, link: Link) -> Cost:
    """Estimate the cost of an unmeasured NVLink mesh from the link rate alone."""
    name, peers = name_of(placement.node), len(placement.devices) - 1
    each = _BRIDGE_RATE if re.search(r"RTX|GeForce", name) else _NVLINK_RATE
    each = _NVLINK5_RATE if re.search(r"\bG?B[23]00\b", name) else each
    rate = each * link.count
    made = from_topology(Interconnect("NVLink", "full_mesh", rate * peers, peers, peers + 1))
    world = min((w for w in made.by_world if w > peers), default=max(made.by_world))
    return Cost(
        _along(made.by_world[world]), f"{rate / 1e9:.0f} GB/s of {link.code} per pair", "guess"
    )


def _catalogue_id(placement: Placement) -> str:
    """Return the catalogue id of the GPUs; empty if they are not in the catalogue."""
    known = catalogue_gpu(name_of(placement.node))
    return known.id if known is not None else ""


@cache
def _lines() -> tuple[Line, ...]:
    """Return the lines of the bundled profile and of machines with bridged pairs."""
    data = resources.files("shardwise.perfmodel").joinpath("data/bridged_pairs.json").read_bytes()
    own = msgspec.json.decode(data, type=_Measured).lines
    return (*bundled_profile().lines, *own)


def _of(line: Line) -> Lines:
    return Lines(line.latency_s, line.rate, line.bulk_latency_s, line.bulk_rate)
