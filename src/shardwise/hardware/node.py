"""Nodes: GPUs of one kind in one scale-up domain, and the network between several nodes."""

from __future__ import annotations

from typing import Final

import msgspec

from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.network import Fabric, Network, networks

MOST_NODES: Final = 64


class Node(msgspec.Struct, frozen=True):
    """`gpus` GPUs of one kind in total, in `nodes` equal nodes.

    Raises InputError for a node with fewer than one GPU or more than its links can connect, and for
    several nodes without a network.
    """

    gpu: Gpu
    gpus: int
    nodes: int = 1
    network: Network | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MOST_NODES:
            raise InputError(f"{self.nodes} nodes", f"allowed: 1 to {MOST_NODES}")
        if self.nodes > 1 and self.network is None:
            raise InputError(
                f"{self.nodes} nodes without a network",
                f"allowed: {', '.join(networks())}",
                "name what joins them with --network",
            )
        if not 1 <= self.gpus_per_node <= self.gpu.interconnect.max_world:
            raise InputError(
                f"{self.gpus_per_node} x {self.gpu.id} in one node",
                f"allowed: 1 to {self.gpu.interconnect.max_world} GPUs",
                field="gpus",
            )

    @property
    def gpus_per_node(self) -> int:
        """Number of GPUs per node; `gpus` is the total."""
        return self.gpus // self.nodes

    @property
    def fabric(self) -> Fabric | None:
        """Network between the nodes; None for a single node."""
        if self.network is None or self.nodes == 1:
            return None
        return Fabric(self.gpus_per_node, self.network)

    @property
    def name(self) -> str:
        """Nodes and GPUs in words, e.g. "8 x h200" or "2 nodes of 8 x h100"."""
        one = f"{self.gpus_per_node} x {self.gpu.id}"
        return one if self.nodes == 1 else f"{self.nodes} nodes of {one}"

    def check_tp(self, tp_size: int) -> None:
        """Raise InputError unless `tp_size` GPUs of this node can shard a layer."""
        if not 1 <= tp_size <= self.gpus:
            raise InputError(
                f"TP={tp_size} on {self.gpus} x {self.gpu.id}",
                f"allowed: 1 to {self.gpus}",
                field="gpus",
            )
