"""Time of one all-reduce: the faster of a latency-bound and a bandwidth-bound algorithm.

Each algorithm is `latency + bytes / rate`. One-shot (every rank reads all the others) has the
lower latency; two-shot or ring moves fewer bytes. Libraries switch at the crossing point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from shardwise.hardware.gpu import Interconnect
from shardwise.perfmodel.work import Array

#: Sharpness of the transition between the algorithms; 6 keeps the sum within 12 % of the lower
#: line.
HANDOVER: Final = 6.0
WORLD_SIZES: Final = (2, 4, 8)


class AllReduce(msgspec.Struct, frozen=True):
    """Two lines of one world size: seconds, and message bytes/s (not wire traffic)."""

    latency_s: float
    rate: float
    bulk_latency_s: float
    bulk_rate: float

    def time(self, message_bytes: Array) -> Array:
        """Return the seconds of an all-reduce of `message_bytes` per rank, in the same shape."""
        small = self.latency_s + message_bytes / self.rate
        large = self.bulk_latency_s + message_bytes / self.bulk_rate
        low = np.minimum(small, large)
        high = np.maximum(small, large)
        return np.asarray(low * (1.0 + (low / high) ** HANDOVER) ** (-1.0 / HANDOVER))


class Collectives(msgspec.Struct, frozen=True):
    """All-reduce lines by world size; `measured` names the library, "" if estimated."""

    by_world: Mapping[int, AllReduce]
    measured: str

    def time(self, tp_size: Array, message_bytes: Array) -> Array:
        """Return the seconds of one all-reduce; 0 for tp_size 1. For an unknown world size, the
        next larger known one is used, or the largest."""
        tp, size = np.broadcast_arrays(tp_size, message_bytes)
        worlds = sorted(self.by_world)
        out = np.zeros(tp.shape)
        lower = 1
        for world in worlds:
            last = world == worlds[-1]
            chosen = (tp > lower) if last else (tp > lower) & (tp <= world)
            if chosen.any():
                out[chosen] = self.by_world[world].time(size[chosen])
            lower = world
        return out


def from_topology(link: Interconnect) -> Collectives:
    """Estimate lines without measurements: typical latencies, and rates from the links.

    One-shot sends the message to each peer: a mesh does that on parallel links, a switch or PCIe
    through one port. Two-shot moves 2 (n - 1) / n of the message (Thakur et al. 2005).
    """
    by_world = {}
    for world in WORLD_SIZES:
        peers, rate = world - 1, link.peer_bandwidth(world)
        pcie = link.topology_of(world) in ("pcie", "network")
        reach = 0.35 if pcie else 0.7  # share of the link rate that measured libraries reach
        if pcie:  # ranks share the host bridge, so the traffic of all of them adds up
            rate = rate / peers
        by_world[world] = AllReduce(
            latency_s=(5e-6 + 3e-6 * peers) if pcie else (5e-6 + 0.3e-6 * peers),
            rate=reach * rate / peers,
            bulk_latency_s=25e-6 if pcie else 10e-6 + 2e-6 * peers,
            bulk_rate=reach * rate * world / (2.0 * peers),
        )
    return Collectives(by_world, measured="")
