"""Parse NCCL's and RCCL's INFO lines: the transport of each channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from shardwise.node.reading.text import Line

#: "Channel 21/0 : 6[6] -> 7[7] via P2P/CUMEM": the number after the slash is the connection.
_CHANNEL: Final = re.compile(
    r"Channel\s+(\d+)(?:/\d+)?\s*:\s*(\d+)\[\w+\]\s*->\s*(\d+)\[\w+\]\s*(?:\[\w+\]\s*)?"
    r"via\s+(\S+(?: pointer)?)"
)
_RANKS: Final = re.compile(r"\bnranks\s+(\d+)", re.IGNORECASE)


class Nccl(msgspec.Struct, frozen=True):
    """Number of ranks in the communicator, of channels, and of connections per transport."""

    ranks: int
    channels: int
    transports: dict[str, int]
    by_pair: dict[tuple[int, int], str]  #: (sending, receiving) rank -> transport

    @property
    def peer_to_peer(self) -> bool:
        """Whether every connection is directly between GPUs."""
        return all(name.startswith("P2P") for name in self.transports)


def read_nccl(lines: Sequence[Line]) -> Nccl | None:
    """Return the channels in `lines`; None if there are none."""
    transports: dict[str, int] = {}
    by_pair: dict[tuple[int, int], str] = {}
    channels: set[int] = set()
    ranks = 0
    for line in lines:
        for number, source, target, via in _CHANNEL.findall(line.text):
            name = via.rstrip(",;")
            transports[name] = transports.get(name, 0) + 1
            by_pair[int(source), int(target)] = name
            channels.add(int(number))
            ranks = max(ranks, int(source) + 1, int(target) + 1)
        if found := _RANKS.search(line.text):
            ranks = max(ranks, int(found[1]))
    return Nccl(ranks, max(channels) + 1, transports, by_pair) if channels else None
