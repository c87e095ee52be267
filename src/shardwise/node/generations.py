"""GPU properties that engines check, looked up in the catalogue by the driver's name."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from shardwise.errors import UnknownNameError
from shardwise.hardware.catalogue import Catalogue, default_catalogue
from shardwise.hardware.gpu import Gpu
from shardwise.node.node import Device, Node

#: Cards without peer access over PCIe. Source: NVIDIA's forum on the RTX 4090 (no P2P since the
#: driver of May 2023) and vllm-project/vllm issue 2728.
_NO_PEER_ACCESS: Final = re.compile(r"GeForce|RTX [345]0\d0", re.IGNORECASE)
#: Parts of names of boards whose GPUs always have NVLink, for GPUs not in the catalogue.
_BOARD: Final = re.compile(r"SXM|HGX|\bGB[23]00\b", re.IGNORECASE)
#: AMD GPUs that engines' own all-reduce kernels support: gfx94x and gfx95x. Source: vLLM's
#: platforms/rocm.py, use_custom_allreduce.
_AMD_TARGETS: Final = ("gfx94", "gfx95")
_AMD_NAMES: Final = re.compile(r"MI3\d\d", re.IGNORECASE)
_AMD_BYTES: Final = 120e9
#: Words that only drivers' names contain: "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB".
_DRIVER_WORDS: Final = re.compile(r"-|NVIDIA|GeForce|Tesla|HBM\d\w?|SXM\d|\bOAM\b")


def name_of(node: Node) -> str:
    """Return the name of the GPUs; empty if it is unknown or they differ."""
    names = {device.name for device in node.devices} - {""}
    return names.pop() if len(names) == 1 else ""


@cache
def catalogue_gpu(name: str) -> Gpu | None:
    """Return the default catalogue's GPU for a driver's name; None if unknown."""
    return gpu_named(default_catalogue(), name)


def gpu_named(catalogue: Catalogue, name: str) -> Gpu | None:
    """Return the GPU for a driver's name; None if `catalogue` has none."""
    for spelling in (name, " ".join(_DRIVER_WORDS.sub(" ", name).split())):
        if spelling:
            try:
                return catalogue.gpu(spelling)
            except UnknownNameError:
                continue
    return None


def compute_capability(device: Device) -> str:
    """Return the compute capability, e.g. "9.0"; empty if neither text nor catalogue has it."""
    if device.compute_capability:
        return device.compute_capability
    known = catalogue_gpu(device.name)
    if known is None or known.compute_capability is None:
        return ""
    return ".".join(map(str, known.compute_capability))


def lacks_peer_access(device: Device) -> bool:
    """Return whether such a card has no peer access over PCIe."""
    return bool(_NO_PEER_ACCESS.search(device.name)) and "PRO" not in device.name


def always_has_nvlink(device: Device) -> bool:
    """Return whether the GPU is on a board with NVSwitch."""
    known = catalogue_gpu(device.name)
    switched = known is not None and known.interconnect.topology == "switched"
    return switched or bool(_BOARD.search(device.name))


def takes_bridges(device: Device) -> bool:
    """Return whether such cards support NVLink bridges."""
    known = catalogue_gpu(device.name)
    return known is not None and known.interconnect.island is not None


def has_amd_kernels(device: Device) -> bool | None:
    """Return whether engines have their own all-reduce for this AMD GPU; None if unknown.

    Without a name, the memory decides: MI300 GPUs have at least 128 GB, MI200 GPUs at most 64 GB.
    """
    if device.name:
        known = catalogue_gpu(device.name)
        listed = known is not None and known.llvm_target.startswith(_AMD_TARGETS)
        return listed or bool(_AMD_NAMES.search(device.name))
    return device.memory_bytes >= _AMD_BYTES if device.memory_bytes is not None else None
