"""Networks between nodes: rates from datasheets, assumed latencies."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

import msgspec
import tomli

from shardwise.errors import InputError

_DATA: Final = Path(__file__).parent / "data" / "networks.toml"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network between nodes. `gbit_per_s` is per adapter; `each` GPU or node has one."""

    name: str
    gbit_per_s: float
    each: Literal["gpu", "node"]
    latency_us: float  #: assumed latency of a small message between GPUs
    source: str
    date: str

    @property
    def bytes_per_s(self) -> float:
        """Bytes/s of one adapter."""
        return self.gbit_per_s * 1e9 / 8.0

    @property
    def latency_s(self) -> float:
        """Latency in seconds."""
        return self.latency_us * 1e-6


class Fabric(msgspec.Struct, frozen=True):
    """Nodes of equal size and the network between them."""

    gpus_per_node: int
    network: Network

    @property
    def node_bytes_per_s(self) -> float:
        """Bytes/s that all GPUs of a node send together."""
        adapters = self.gpus_per_node if self.network.each == "gpu" else 1
        return self.network.bytes_per_s * adapters


@cache
def networks() -> dict[str, Network]:
    """Return every network of the catalogue by id."""
    return msgspec.convert(tomli.loads(_DATA.read_text("utf-8")), dict[str, Network])


def network(name: str) -> Network:
    """Return the network with an id. Raises InputError listing all ids."""
    found = networks().get(name)
    if found is None:
        raise InputError(f"network {name[:40]!r}", f"allowed: {', '.join(networks())}")
    return found
