"""The link between two GPUs, as topology tools name it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

#: How far apart two GPUs are, nearest first. NVLink and XGMI are direct; PIX: one PCIe switch;
#: PXB: several; PHB: through the CPU's host bridge; NODE: between host bridges of one NUMA node;
#: PCIE: some path over PCIe, AMD's tools do not say which; SYS: across the CPU sockets. Source: the
#: legend that `nvidia-smi topo -m` prints.
KINDS: Final = ("NVLINK", "XGMI", "PIX", "PXB", "PHB", "NODE", "PCIE", "SYS")
DIRECT: Final = ("NVLINK", "XGMI")
#: SOC is what drivers before 390 print for SYS.
_CODES: Final = {kind: kind for kind in KINDS[2:]} | {"XGMI": "XGMI", "SOC": "SYS"}


class Link(msgspec.Struct, frozen=True):
    """One kind of link; `count` NVLinks are bonded, `hops` XGMI steps lie between the two GPUs."""

    kind: str  #: one of KINDS
    count: int = 1  #: NVLinks between the pair
    hops: int | None = 1  #: XGMI steps; None: reachable, the number of steps is not known

    @property
    def direct(self) -> bool:
        """Whether the two GPUs reach each other without PCIe and without a third GPU."""
        return self.kind in DIRECT and self.hops == 1

    @property
    def quality(self) -> tuple[int, int]:
        """Orders links from worst to best; equal links compare equal."""
        if self.kind == "XGMI":
            return -KINDS.index("XGMI"), -(self.hops or 2)
        return -KINDS.index(self.kind), self.count

    @property
    def code(self) -> str:
        """The link as the tools write it: NV12, PIX, XGMI; XGMI/2 is two steps, XGMI/? unknown."""
        if self.kind == "NVLINK":
            return f"NV{self.count}"
        if self.kind == "XGMI" and self.hops != 1:
            return f"XGMI/{self.hops or '?'}"
        return self.kind


def parse_link(code: str) -> Link | None:
    """The link of a code such as NV12, PIX or XGMI/2; None if it is no link's."""
    bonded = re.fullmatch(r"NV(\d+)", code)
    if bonded and int(bonded[1]):
        return Link("NVLINK", int(bonded[1]))
    steps = re.fullmatch(r"XGMI/(\d+|\?)", code)
    if steps:
        return Link("XGMI", hops=None if steps[1] == "?" else int(steps[1]))
    return Link(_CODES[code]) if code in _CODES else None
