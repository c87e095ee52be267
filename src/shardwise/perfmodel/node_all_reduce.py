"""Which all-reduce an engine uses on a group of GPUs, and why.

World sizes and message sizes come from `shardwise.engines`. Sources, read in November 2026:

- Supported links: custom_all_reduce.py of vLLM and SGLang, and platforms/rocm.py of vLLM (gfx94x
  and gfx95x only). SGLang also requires XGMI between two AMD GPUs.
- Transport of NCCL: src/graph/paths.cc, ncclTopoCheckP2p. Peer to peer up to PXB; up to SYS with
  at most two GPUs and an AMD CPU; otherwise through host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shardwise.engines import get
from shardwise.engines.device import Device as EngineDevice
from shardwise.engines.facts import AllReduce as Facts
from shardwise.errors import InputError
from shardwise.node.generations import compute_capability, has_amd_kernels, lacks_peer_access
from shardwise.node.links import KINDS
from shardwise.node.node import Node
from shardwise.node.placement import Placement

ENGINES: Final = ("vllm", "sglang")
#: Link kinds over which NCCL uses peer to peer by default.
_NCCL_P2P: Final = ("NVLINK", "XGMI", "PIX", "PXB")

Transport = Literal["direct", "peer to peer", "host memory", ""]


class AllReduce(msgspec.Struct, frozen=True):
    """The all-reduce of one engine on one group.

    `certain` is False if the choice depends on a peer-access test on the machine. Then `library`
    is used if the test passes, and `otherwise` if it fails.
    """

    engine: str
    tp_size: int
    library: Literal["none", "custom", "nccl", "rccl"]
    why: str
    below_bytes: int | None = None  #: the engine's own kernel runs below this message size
    larger: str = ""  #: what runs for larger messages
    transport: Transport = ""  #: of NCCL or RCCL on this group
    certain: bool = True
    otherwise: str = ""


def choose(engine: str, placement: Placement) -> AllReduce:
    """Return the all-reduce that `engine` uses by default on the GPUs of `placement`.

    Raises:
        InputError: The engine is not one of `ENGINES`.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine[:40]!r}", f"allowed: {', '.join(ENGINES)}")
    tp_size = len(placement.devices)
    if tp_size == 1:
        return AllReduce(engine, 1, "none", "a single GPU needs no all-reduce")
    node = placement.node
    amd = node.vendor == "amd"
    library: Literal["nccl", "rccl"] = "rccl" if amd else "nccl"
    transport = transport_of(placement)
    facts = _facts(engine, placement, amd)
    refused = _refused(engine, facts, placement, amd)
    if refused:
        return AllReduce(engine, tp_size, library, refused, transport=transport)
    limit, larger = _limit(facts, placement, amd)
    connected = placement.fully_connected
    certain = connected or _all_reach(node, placement.devices) is True
    if connected:
        why = "every pair has a direct link"
    elif certain:
        why = "two GPUs with peer access"
    else:
        why = "two GPUs over PCIe, if the engine's peer-access test passes"
    return AllReduce(
        engine, tp_size, "custom", why, limit, larger, transport, certain,
        "" if certain else library.upper(),
    )  # fmt: skip


def transport_of(placement: Placement) -> Transport:
    """Return how NCCL or RCCL moves data over the ring's slowest link; empty if unknown."""
    slowest, node = placement.slowest, placement.node
    if slowest is None:
        return ""
    if slowest.direct:
        return "direct"
    ring = placement.ring_pairs
    if any(_reaches(node, a, b) is False for a, b in ring):
        return "host memory"
    if slowest.kind == "PCIE":  # AMD's tools do not report the path
        return ""
    near = slowest.kind in _NCCL_P2P or _amd_pair(node)
    return "peer to peer" if near else "host memory"


def nccl_level(placement: Placement) -> str:
    """Return the NCCL_P2P_LEVEL that enables peer to peer on the whole ring; empty if it is
    enabled by default."""
    slowest = placement.slowest
    if slowest is None or slowest.kind in _NCCL_P2P or slowest.kind == "PCIE":
        return ""
    return "SYS" if KINDS.index(slowest.kind) >= KINDS.index("NODE") else slowest.kind


def _amd_pair(node: Node) -> bool:
    """Whether NCCL's exception applies: at most two GPUs in a machine with an AMD CPU."""
    return len(node.devices) <= 2 and "AMD" in node.host.cpu_vendor


def _refused(engine: str, facts: Facts, placement: Placement, amd: bool) -> str:
    """Return why the engine's own kernel is disabled; empty if it is enabled."""
    tp_size, node = len(placement.devices), placement.node
    if tp_size not in facts.custom_world_sizes:
        sizes = ", ".join(map(str, facts.custom_world_sizes))
        return f"its own kernel supports {sizes} GPUs, not {tp_size}"
    if amd and (supported := has_amd_kernels(node.device(placement.devices[0]))) is not True:
        which = "this is another GPU" if supported is False else "the GPU's name is unknown"
        return f"its own kernel needs the MI300 series or later; {which}"
    if placement.fully_connected:
        return ""
    if tp_size > facts.pcie_max_world:
        return f"more than two GPUs, and {_missing(placement)} has no direct link"
    return _pair_refused(engine, placement, amd)


def _pair_refused(engine: str, placement: Placement, amd: bool) -> str:
    """Return why two GPUs without a direct link cannot use the engine's own kernel; empty if they
    can."""
    node = placement.node
    if amd and engine == "sglang":
        return "two AMD GPUs without XGMI between them"
    if _all_reach(node, placement.devices) is not False:
        return ""
    if node.peer_access:
        return "no peer access between the two GPUs"
    return "GeForce drivers give no peer access over PCIe"


def _missing(placement: Placement) -> str:
    """Describe the slowest pair without a direct link."""
    node = placement.node
    pairs = node.pairs(placement.devices)
    unlinked = [p for p in pairs if not ((link := node.links.get(p)) and link.direct)]
    worst = min(unlinked, key=lambda p: node.links[p].quality if p in node.links else (-99, 0))
    link = node.links.get(worst)
    return f"the pair {worst[0]}-{worst[1]} ({link.code if link else 'not known'})"


def _all_reach(node: Node, devices: Sequence[int]) -> bool | None:
    """Whether all pairs have peer access: False if one has none, else None if one is unknown."""
    said = [_reaches(node, a, b) for a, b in node.pairs(devices)]
    if False in said:
        return False
    return None if None in said else True


def _reaches(node: Node, a: int, b: int) -> bool | None:
    """Peer access from the node file, else from the driver's known limits; None if unknown."""
    said = node.reaches(a, b)
    if said is None and (lacks_peer_access(node.device(a)) or lacks_peer_access(node.device(b))):
        return False
    return said


def _limit(facts: Facts, placement: Placement, amd: bool) -> tuple[int, str]:
    """Return the size below which the engine's own kernel runs, and what runs above it."""
    tp_size, capability = len(placement.devices), _capability(placement)
    limit = facts.custom_limit(tp_size, capability)
    if amd:
        return limit, "RCCL"
    symmetric = facts.symmetric_by_capability
    if placement.fully_connected and capability in symmetric:
        return limit, "symmetric memory, then NCCL"
    if placement.fully_connected and symmetric and capability is None:
        return limit, "NCCL (from Hopper on, symmetric memory takes over earlier)"
    return limit, "NCCL"


def _facts(engine: str, placement: Placement, amd: bool) -> Facts:
    device = EngineDevice(
        vendor="amd" if amd else "nvidia", compute_capability=_capability(placement)
    )
    return get(engine).scheduling(device).all_reduce


def _capability(placement: Placement) -> tuple[int, int] | None:
    said = compute_capability(placement.node.device(placement.devices[0]))
    major, _, minor = said.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
