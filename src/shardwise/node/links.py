"""The link between two GPUs, as topology tools name it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

#: Kinds of links, nearest first. NVLink and XGMI are direct; PIX: one PCIe switch; PXB: several;
#: PHB: through the CPU's host bridge; NODE: between host bridges of one NUMA node; PCIE: an
#: unspecified path over PCIe (AMD's tools); SYS: across the CPU sockets. Source: legend of
#: `nvidia-smi topo -m`.
KINDS: Final = ("NVLINK", "XGMI", "PIX", "PXB", "PHB", "NODE", "PCIE", "SYS")
DIRECT: Final = ("NVLINK", "XGMI")
#: Drivers before 390 print SOC for SYS.
_CODES: Final = {kind: kind for kind in KINDS[2:]} | {"XGMI": "XGMI", "SOC": "SYS"}


class Link(msgspec.Struct, frozen=True):
    """The link between two GPUs: its kind, number of bonded NVLinks, and XGMI hops."""

    kind: str  #: one of KINDS
    count: int = 1  #: NVLinks between the pair
    hops: int | None = 1  #: number of XGMI hops; None: reachable over an unknown number

    @property
    def direct(self) -> bool:
        """Whether the link uses neither PCIe nor a third GPU."""
        return self.kind in DIRECT and self.hops == 1

    @property
    def quality(self) -> tuple[int, int]:
        """Sort key from worst to best; equal links compare equal."""
        if self.kind == "XGMI":
            return -KINDS.index("XGMI"), -(self.hops or 2)
        return -KINDS.index(self.kind), self.count

    @property
    def code(self) -> str:
        """The link as tools print it: NV12, PIX, XGMI; XGMI/2 is two hops, XGMI/? unknown."""
        if self.kind == "NVLINK":
            return f"NV{self.count}"
        if self.kind == "XGMI" and self.hops != 1:
            return f"XGMI/{self.hops or '?'}"
        return self.kind


def parse_link(code: str) -> Link | None:
    """Return the link for a code such as NV12, PIX or XGMI/2; None for any other text."""
    bonded = re.fullmatch(r"NV(\d+)", code)
    if bonded and int(bonded[1]):
        return Link("NVLINK", int(bonded[1]))
    steps = re.fullmatch(r"XGMI/(\d+|\?)", code)
    if steps:
        return Link("XGMI", hops=None if steps[1] == "?" else int(steps[1]))
    return Link(_CODES[code]) if code in _CODES else None
