"""A node file for the planner: its GPUs with the all-reduces their links allow, and their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from shardwise.doctor.all_reduce import choose
from shardwise.doctor.cost import CostFunction, measured_costs
from shardwise.errors import InputError
from shardwise.hardware.gpu import AllReduceLine, Gpu
from shardwise.node.generations import catalogue_gpu, name_of
from shardwise.node.node import Node
from shardwise.node.placement import best, placements, tp_sizes

#: Messages through which the latency and the rate of a line are laid: a decode step's of one
#: sequence, and a prefill's of a thousand tokens (hidden size 8192, 16 bits).
_SMALL, _LARGE = 16 * 2**10, 16 * 2**20
_ENGINE: Final = "vllm"


def gpu_on(
    node: Node, gpu: Gpu | None = None, engine: str = _ENGINE, cost: CostFunction = measured_costs
) -> Gpu:
    """The catalogue's GPU as it is on `node`: with an all-reduce for each TP size, unless every
    pair has a direct link, which is what the catalogue takes for granted.

    `gpu` is taken where the node does not name its GPUs. InputError if neither tells, or if the
    GPUs differ.
    """
    names = {device.name for device in node.devices} - {""}
    if len(names) > 1:
        raise InputError(
            f"a node of {', '.join(sorted(names))}", "allowed: GPUs of one kind", "split the file"
        )
    known = gpu or catalogue_gpu(name_of(node))
    if known is None:
        what = f"GPU {name_of(node)!r} of the node is not in the catalogue"
        raise InputError(what if names else "the node does not name its GPUs", remedy="pass --gpu")
    if node.fully_connected(node.indices):
        return known
    engine = engine if engine in ("vllm", "sglang") else _ENGINE
    lines, sources = {}, set()
    for size in tp_sizes(node):
        found = _line(node, size, engine, cost) if size > 1 else None
        if found is not None:
            lines[size] = found[0]
            sources |= found[1]
    if not lines:
        return known
    return replace(known, all_reduce=lines, all_reduce_source=f"node file: {_joined(sources)}")


def device_order(node: Node, tp_size: int) -> tuple[int, ...]:
    """The GPUs so that each `tp_size` in a row are a good group, GPUs that no group takes last."""
    grouped = [i for placed in placements(node, tp_size) for i in placed.devices]
    return (*grouped, *(i for i in node.indices if i not in grouped))


def _line(
    node: Node, size: int, engine: str, cost: CostFunction
) -> tuple[AllReduceLine, set[str]] | None:
    """Latency and rate on the best group, and their sources; the geometric mean where machines of
    this kind differ."""
    placed = best(node, size)
    taken = choose(engine, placed)
    small, large = cost(placed, taken), cost(placed, replace(taken, library="nccl"))
    if node.vendor == "amd" or not large:
        large = small
    if not small:
        return None
    first = _mean([each.seconds(_SMALL) for each in small])
    last = _mean([each.seconds(_LARGE) for each in large])
    line = AllReduceLine(first, _LARGE / max(last - first, 1e-9))
    return line, {each.source for each in (*small, *large)}


def _joined(sources: set[str]) -> str:
    return ", ".join(sorted(sources))


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
