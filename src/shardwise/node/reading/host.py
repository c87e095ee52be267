"""Parse the host's lines in pasted text: lscpu, IOMMU and ACS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from shardwise.node.node import Host
from shardwise.node.reading.text import Line

_NAMED: Final = {
    "cpu_name": re.compile(r"^\W*Model name\s*[:：]+\s*(\S.*?)\s*$"),
    "cpu_vendor": re.compile(r"^\W*Vendor ID\s*[:：]+\s*(\S+)\s*$"),
    "hypervisor": re.compile(r"^\W*Hypervisor vendor\s*[:：]+\s*(\S.*?)\s*$"),
}
_SOCKETS: Final = re.compile(r"^\W*Socket\(s\)\s*[:：]\s*(\d+)\s*$")
#: "NUMA node0 CPU(s):". Translated output keeps NUMA, the number, CPU and the colon.
_NUMA_CPUS: Final = re.compile(
    r"NUMA\s*[^\d:：]{0,12}(\d+)\s*[^:：]{0,12}CPU[^:：]*[:：]\s*(\d[\d,\- ]*)\s*$"
)
_IOMMU_ON: Final = re.compile(
    r"(?:intel|amd)_iommu=on|DMAR: IOMMU enabled|AMD-Vi: Interrupt remapping enabled"
)
_IOMMU_OFF: Final = re.compile(r"(?:intel_|amd_)?iommu=off|iommu=pt\b")
_ACS: Final = re.compile(r"ACSCtl:.*ReqRedir([+-])")


def read_host(lines: Sequence[Line]) -> Host:
    """Return the host from lscpu, the kernel's command line and `lspci -vvv` in `lines`."""
    named: dict[str, str] = {}
    numa: dict[int, str] = {}
    sockets: int | None = None
    iommu: bool | None = None
    redirects: list[bool] = []
    for line in lines:
        for key, pattern in _NAMED.items():
            if key not in named and (found := pattern.search(line.text)):
                named[key] = found[1]
        if found := _SOCKETS.search(line.text):
            sockets = int(found[1])
        if found := _NUMA_CPUS.search(line.text):
            numa[int(found[1])] = found[2].replace(" ", "")
        if _IOMMU_OFF.search(line.text):
            iommu = False
        elif _IOMMU_ON.search(line.text):
            iommu = True
        redirects += [sign == "+" for sign in _ACS.findall(line.text)]
    return Host(
        named.get("cpu_name", ""),
        named.get("cpu_vendor", ""),
        sockets,
        numa,
        named.get("hypervisor", ""),
        iommu,
        any(redirects) if redirects else None,
    )
