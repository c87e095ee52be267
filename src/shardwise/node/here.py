"""This machine, read through its own tools and /proc. Nothing is changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Final

from shardwise.node.reading.read import Reading, read

#: What is asked, in the order in which it is read; a tool that is not installed is passed over.
COMMANDS: Final = (
    ("nvidia-smi",),
    (
        "nvidia-smi",
        "--query-gpu=index,name,pci.bus_id,memory.total,memory.used,pcie.link.gen.max,"
        "pcie.link.width.max,power.limit,mig.mode.current,compute_cap",
        "--format=csv",
    ),
    ("nvidia-smi", "topo", "-m"),
    ("nvidia-smi", "topo", "-p2p", "r"),
    ("rocm-smi", "--showtopo", "--showproductname", "--showmeminfo", "vram", "--showbus"),
    ("amd-smi", "topology"),
    ("lscpu",),
    ("lspci", "-vvv"),
)
_TIMEOUT_S: Final = 20.0
_PACKAGES: Final = ("vllm", "sglang", "torch")


def read_here() -> Reading:
    """What the tools of this machine say, IOMMU and installed engines included."""
    text = "\n".join(_outputs())
    found = read(text, "this machine")
    versions = {**found.versions, **_installed()}
    node = found.node
    iommu = _iommu_translates()
    if node is not None and iommu is not None:
        node = replace(node, host=replace(node.host, iommu=iommu))
    return replace(found, node=node, versions=versions)


def _outputs() -> Iterator[str]:
    for command in COMMANDS:
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        # the command stands above its output, as in a paste: tables are told apart by it
        yield f"$ {' '.join(command)}\n{done.stdout}\n{done.stderr}\n"


def _installed() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _iommu_translates() -> bool | None:
    """Whether some IOMMU group translates addresses; None where the kernel has no groups."""
    types = set()
    for path in Path("/sys/kernel/iommu_groups").glob("*/type"):
        try:
            types.add(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return any(kind.startswith("DMA") for kind in types) if types else None
