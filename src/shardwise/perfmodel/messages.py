"""Time of a step's collectives: all-reduces after sharded matrices, and the exchange of tokens
between data-parallel attention and the ranks that hold the experts.

The engine determines which all-reduce runs (`engines`): its custom kernel for small messages, the
communication library for larger ones. Over PCIe, the custom kernel supports few ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
#: Seconds that fusing an all-reduce with the following norm saves on Blackwell, where 13.5 us
#: become 8.7 us (github.com/sgl-project/sglang/pull/7621), and the share that is left of shorter
#: ones. Assumed: a longer one saves no more. On Hopper, the fused kernel is no faster.
FUSED_SAVES_S: Final = 13.5e-6 - 8.7e-6
FUSED_SHARE: Final = 8.7 / 13.5
#: Library whose all-reduce an engine without its own table runs.
_LIBRARY = {"atom": "aiter", "builtin": "nccl"}


class Node(msgspec.Struct, frozen=True, eq=False):
    """GPUs of one kind and the engine that runs them."""

    gpu: Gpu
    engine: str
    version: str = ""
    all_reduce: str = ""  #: enabled compressing algorithm, if any
    fabric: Fabric | None = None  #: network between nodes; None: one node

    def _identity(self) -> tuple[int, str, str, str, Fabric | None]:
        return id(self.gpu), self.engine, self.version, self.all_reduce, self.fabric

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        """Compare GPUs by identity, because their mappings cannot be hashed."""
        return isinstance(other, Node) and other._identity() == self._identity()


def reduce_seconds(
    node: Node, layouts: Sequence[Layout], sizes: Array, before_norm: bool = True
) -> Array:
    """Return the time of one all-reduce.

    Args:
        node: GPUs and engine.
        layouts: The TP size of each gives the ranks.
        sizes: Message sizes in bytes.
        before_norm: Whether a residual add and a norm follow, with which it may be fused.

    Returns:
        Seconds, shape (layouts, sizes).
    """
    worlds = sorted({x.tp_size for x in layouts})
    found = {world: _all_reduce(node, world, sizes, before_norm) for world in worlds}
    return np.stack([found[x.tp_size] for x in layouts])


def _all_reduce(node: Node, world: int, sizes: Array, before_norm: bool) -> Array:
    if world == 1:
        return np.zeros_like(sizes)
    gpu = node.gpu
    own = own_lines(gpu)
    if own is not None:
        return own.time(np.array(float(world)), sizes)
    if gpu.vendor == "cpu" or gpu.interconnect.topology_of(world) == "network":
        return from_topology(gpu.interconnect).time(np.array(float(world)), sizes)
    seconds = _tabled(node, world, sizes).seconds
    if before_norm:
        seconds = _fused(node, world, sizes, seconds)
    if not node.all_reduce:
        return seconds
    engine = _LIBRARY.get(node.engine, node.engine)
    packed = kernels.all_reduce(gpu, engine, world, sizes, node.all_reduce).seconds
    return np.minimum(seconds, packed)  # small messages are not compressed


def _fused(node: Node, world: int, sizes: Array, seconds: Array) -> Array:
    """Return the time of all-reduces with the following norm, less that of the norm alone."""
    device = device_of(node.gpu)
    if not device.is_sm100:
        return seconds
    facts = get(node.engine).scheduling(device, node.version).all_reduce
    shorter = np.maximum(seconds - FUSED_SAVES_S, FUSED_SHARE * seconds)
    limit = facts.fused_limit(world, device.capability)
    return np.asarray(np.where(sizes <= limit, shorter, seconds))


def _tabled(node: Node, world: int, sizes: Array) -> Times:
    engine = _LIBRARY.get(node.engine, node.engine)
    usual = "nccl" if _library_alone(node, world) else "graph"
    return kernels.all_reduce(node.gpu, engine, world, sizes, usual)


def reduce_provenance(node: Node, world: int, size: float) -> Provenance:
    """Return the provenance of the time of an all-reduce of `size` bytes over `world` ranks."""
    gpu = node.gpu
    if own_lines(gpu) is not None:
        # lines of a node file come from another machine with similar links
        return Provenance.OTHER_GPU if gpu.all_reduce_source else Provenance.INTERPOLATED
    if gpu.vendor == "cpu" or gpu.interconnect.topology_of(world) == "network":
        return Provenance.ROOFLINE
    return Provenance(int(_tabled(node, world, np.array([size])).provenance[0]))


def own_lines(gpu: Gpu) -> Collectives | None:
    """Return the all-reduce lines that the GPU's own file states; None without any."""
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


def exchange_seconds(
    node: Node,
    model: Model,
    layouts: Sequence[Layout],
    tokens: Array,
    gathered_bytes: float = 2.0,
) -> Array:
    """Return the time to exchange tokens between data-parallel attention and expert ranks.

    Models the default of vLLM and SGLang: an all-gather before the experts and a reduce-scatter
    after them.

    Args:
        node: GPUs and engine.
        model: Supplies the number of MoE layers and the hidden size.
        layouts: Layouts without data-parallel attention take no time.
        tokens: Tokens of all attention replicas together.
        gathered_bytes: Bytes per value of an expert's input; its output has 16 bits.

    Returns:
        Seconds for all layers, shape (layouts, tokens).
    """
    layers = sum(g.count for g in model.groups if isinstance(g.feed_forward, Moe))
    out = np.zeros((len(layouts), len(tokens)))
    for place, layout in enumerate(layouts):
        if layout.attention_dp > 1 and layout.stage_gpus > 1:
            values = tokens * model.hidden_size
            sent, returned = gathered_bytes * values, 2.0 * values
            ranks, between = layout.stage_gpus, np.zeros(len(tokens))
            if node.fabric is not None and ranks > node.fabric.gpus_per_node:
                between = _between_nodes(node.fabric, ranks, sent)
                between = between + _between_nodes(node.fabric, ranks, returned)
                ranks = node.fabric.gpus_per_node
            gathered = kernels.all_gather(node.gpu, ranks, sent).seconds
            scattered = kernels.reduce_scatter(node.gpu, ranks, returned).seconds
            out[place] = layers * (gathered + scattered + between)
    return out


def _between_nodes(fabric: Fabric, ranks: int, size: Array) -> Array:
    """Seconds that one all-gather of `size` bytes over `ranks` GPUs spends between nodes.

    Each node receives the data of the others through all its adapters, then distributes it over
    its own links.
    """
    nodes = ranks / fabric.gpus_per_node
    return np.asarray(
        fabric.network.latency_s * (nodes - 1.0)
        + size * (nodes - 1.0) / nodes / fabric.node_bytes_per_s
    )


def hops(node: Node, layout: Layout, hidden_bytes: float) -> tuple[float, float]:
    """Return the time of a transfer to the next pipeline stage: seconds per token, and latency.

    Both are means over all stage boundaries, some of which may cross nodes.
    """
    within = hidden_bytes / node.gpu.interconnect.peer_bandwidth(2)
    fabric = node.fabric
    if fabric is None or layout.pp_size == 1:
        return within, 0.0
    share = crossing_hops(layout, fabric.gpus_per_node) / (layout.pp_size - 1)
    across = hidden_bytes / fabric.network.bytes_per_s
    return within + share * (across - within), share * fabric.network.latency_s
