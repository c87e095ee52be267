"""Seconds of a step's collectives: all-reduces after cut matrices, and the exchange of tokens
between copies of attention and the ranks that hold the experts.

Which all-reduce an engine takes is its own affair (`engines`): its custom kernel up to a size, the
library's beyond; over PCIe the custom kernel runs up to so many ranks only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise import kernels
from shardwise.architecture.feed_forward import Moe
from shardwise.architecture.model import Model
from shardwise.engines.device import device_of
from shardwise.engines.registry import get
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.network import Fabric
from shardwise.kernels.provenance import Provenance, Times
from shardwise.layout.deployment import Layout
from shardwise.layout.nodes import crossing_hops
from shardwise.perfmodel.collectives import AllReduce, Collectives, from_topology

Array = NDArray[np.float64]
#: Whose all-reduce an engine runs, where it has no table of its own.
_LIBRARY = {"atom": "aiter", "builtin": "nccl"}


class Node(msgspec.Struct, frozen=True, eq=False):
    """GPUs of one kind and the engine that runs them."""

    gpu: Gpu
    engine: str
    version: str = ""
    all_reduce: str = ""  #: a compressing algorithm that was switched on
    fabric: Fabric | None = None  #: what joins nodes, where there are several

    def _identity(self) -> tuple[int, str, str, str, Fabric | None]:
        return id(self.gpu), self.engine, self.version, self.all_reduce, self.fabric

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        """The same GPU object: its mappings cannot be hashed."""
        return isinstance(other, Node) and other._identity() == self._identity()


def reduce_seconds(node: Node, layouts: Sequence[Layout], sizes: Array) -> Array:
    """Seconds of one all-reduce of each of `sizes` bytes in each layout: (layouts, sizes)."""
    worlds = sorted({x.tp_size for x in layouts})
    found = {world: _all_reduce(node, world, sizes) for world in worlds}
    return np.stack([found[x.tp_size] for x in layouts])


def _all_reduce(node: Node, world: int, sizes: Array) -> Array:
    if world == 1:
        return np.zeros_like(sizes)
    gpu = node.gpu
    own = own_lines(gpu)
    if own is not None:
        return own.time(np.array(float(world)), sizes)
    if gpu.vendor == "cpu" or gpu.interconnect.topology_of(world) == "network":
        return from_topology(gpu.interconnect).time(np.array(float(world)), sizes)
    seconds = _tabled(node, world, sizes).seconds
    if not node.all_reduce:
        return seconds
    engine = _LIBRARY.get(node.engine, node.engine)
    packed = kernels.all_reduce(gpu, engine, world, sizes, node.all_reduce).seconds
    return np.minimum(seconds, packed)  # small messages are not compressed


def _tabled(node: Node, world: int, sizes: Array) -> Times:
    engine = _LIBRARY.get(node.engine, node.engine)
    usual = "nccl" if _library_alone(node, world) else "graph"
    return kernels.all_reduce(node.gpu, engine, world, sizes, usual)


def reduce_provenance(node: Node, world: int, size: float) -> Provenance:
    """How far an all-reduce of `size` bytes over `world` ranks is from a measurement."""
    gpu = node.gpu
    if own_lines(gpu) is not None:
        # a node file's lines stand in from another machine with such links
        return Provenance.OTHER_GPU if gpu.all_reduce_source else Provenance.INTERPOLATED
    if gpu.vendor == "cpu" or gpu.interconnect.topology_of(world) == "network":
        return Provenance.ROOFLINE
    return Provenance(int(_tabled(node, world, np.array([size])).provenance[0]))


def own_lines(gpu: Gpu) -> Collectives | None:
    """All-reduces that somebody measured on this very node, as lines."""
    if not gpu.all_reduce:
        return None
    by_world = {
        world: AllReduce(line.latency_s, line.bytes_per_s, float("inf"), line.bytes_per_s)
        for world, line in gpu.all_reduce.items()
    }
    return Collectives(by_world, f"measured on {gpu.id}")


def _library_alone(node: Node, world: int) -> bool:
    gpu = node.gpu
    facts = get(node.engine).scheduling(device_of(gpu), node.version).all_reduce
    if gpu.interconnect.topology == "pcie" and world > facts.pcie_max_world:
        return True
    return world not in facts.custom_world_sizes


def exchange_seconds(node: Node, model: Model, layouts: Sequence[Layout], tokens: Array) -> Array:
    """Seconds that copies of attention take to pass `tokens` (of all copies together) to the
    ranks of the experts and back, all layers: (layouts, tokens). None without such copies.

    vLLM's and SGLang's default: an all-gather before, a reduce-scatter after.
    """
    layers = sum(g.count for g in model.groups if isinstance(g.feed_forward, Moe))
    out = np.zeros((len(layouts), len(tokens)))
    for place, layout in enumerate(layouts):
        if layout.attention_dp > 1 and layout.stage_gpus > 1:
            size = 2.0 * tokens * model.hidden_size
            ranks, between = layout.stage_gpus, np.zeros(len(tokens))
            if node.fabric is not None and ranks > node.fabric.gpus_per_node:
                between = _between_nodes(node.fabric, ranks, size)
                ranks = node.fabric.gpus_per_node
            gathered = kernels.all_gather(node.gpu, ranks, size).seconds
            scattered = kernels.reduce_scatter(node.gpu, ranks, size).seconds
            out[place] = layers * (gathered + scattered + 2.0 * between)
    return out


def _between_nodes(fabric: Fabric, ranks: int, size: Array) -> Array:
    """Seconds that one gather of `size` bytes over `ranks` GPUs spends between nodes: each node
    takes in what the others have, spread over its adapters, and shares it out over its links."""
    nodes = ranks / fabric.gpus_per_node
    return np.asarray(
        fabric.network.latency_s * (nodes - 1.0)
        + size * (nodes - 1.0) / nodes / fabric.node_bytes_per_s
    )


def hops(node: Node, layout: Layout, hidden_bytes: float) -> tuple[float, float]:
    """Seconds of a hand-over to the next pipeline stage: for a token, and before the first one;
    the mean over all hand-overs, of which some may cross nodes."""
    within = hidden_bytes / node.gpu.interconnect.peer_bandwidth(2)
    fabric = node.fabric
    if fabric is None or layout.pp_size == 1:
        return within, 0.0
    share = crossing_hops(layout, fabric.gpus_per_node) / (layout.pp_size - 1)
    across = hidden_bytes / fabric.network.bytes_per_s
    return within + share * (across - within), share * fabric.network.latency_s
