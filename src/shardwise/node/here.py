"""Read this machine through its tools and /proc, without changing anything."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from shardwise.node.reading.read import Reading, read

Command = tuple[str, ...]
#: Commands in the order in which their output is read. Tools that are not installed are skipped.
GPU_COMMANDS: Final[tuple[Command, ...]] = (
    ("nvidia-smi",),
    (
        "nvidia-smi",
        "--query-gpu=index,name,pci.bus_id,memory.total,memory.used,pcie.link.gen.max,"
        "pcie.link.width.max,power.limit,mig.mode.current,compute_cap",
        "--format=csv",
    ),
    ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showbus"),
)
COMMANDS: Final[tuple[Command, ...]] = (
    *GPU_COMMANDS,
    ("nvidia-smi", "topo", "-m"),
    ("nvidia-smi", "topo", "-p2p", "r"),
    ("rocm-smi", "--showtopo"),
    ("amd-smi", "topology"),
    ("lscpu",),
    ("lspci", "-vvv"),
)
_TIMEOUT_S: Final = 20.0
_PACKAGES: Final = ("vllm", "sglang", "torch")


def read_here(commands: Sequence[Command] = COMMANDS) -> Reading:
    """Return the reading of this machine's tools, IOMMU and installed engines."""
    text = "\n".join(_outputs(commands))
    found = read(text, "this machine")
    versions = {**found.versions, **_installed()}
    node = found.node
    iommu = _iommu_translates()
    if node is not None and iommu is not None:
        node = replace(node, host=replace(node.host, iommu=iommu))
    return replace(found, node=node, versions=versions)


def _outputs(commands: Sequence[Command]) -> Iterator[str]:
    for command in commands:
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
        # the command is printed above its output, as in a paste, because it identifies tables
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
    """Return whether any IOMMU group translates addresses; None if the kernel has no groups."""
    types = set()
    for path in Path("/sys/kernel/iommu_groups").glob("*/type"):
        try:
            types.add(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return any(kind.startswith("DMA") for kind in types) if types else None
