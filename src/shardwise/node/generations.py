"""What engines' gates need to know of a GPU, from its name."""

from __future__ import annotations

import re
from typing import Final

from shardwise.node.node import Device, Node

#: Compute capability by name. Source: developer.nvidia.com/cuda-gpus.
_CAPABILITIES: Final = (
    (r"\bGB300\b|\bB300\b", "10.3"),
    (r"\bGB200\b|\bB200\b", "10.0"),
    (r"\bG?H100\b|\bH200\b|\bH20\b|\bH800\b|\bGH200\b", "9.0"),
    (r"\bRTX PRO \d000 Blackwell|\bRTX 50\d0", "12.0"),
    (r"\bGB10\b", "12.1"),
    (r"\bL4\b|\bL40S?\b|\bL20\b|RTX 40\d0|RTX (?:5000|6000) Ada|RTX 5880", "8.9"),
    (r"\bA10G?\b|\bA40\b|RTX 30\d0|RTX A\d000", "8.6"),
    (r"\bA100\b|\bA800\b|\bA30\b", "8.0"),
    (r"\bV100\b", "7.0"),
)
#: GPUs whose driver gives no peer access over PCIe. Source: NVIDIA's forum on the RTX 4090
#: (no P2P since the driver of May 2023) and vllm-project/vllm issue 2728.
_NO_PEER_ACCESS: Final = re.compile(r"GeForce|RTX [345]0\d0", re.IGNORECASE)
#: Boards whose GPUs always have NVLink: none at all means that the fabric is down.
_SXM: Final = re.compile(r"SXM|HGX|\bGB[23]00\b|80GB HBM3\b", re.IGNORECASE)
#: AMD GPUs that engines' own all-reduce kernels support (gfx94x, gfx95x). Source: vLLM's platforms/
#: rocm.py, use_custom_allreduce.
_CDNA3: Final = re.compile(r"MI3\d\d", re.IGNORECASE)
_CDNA3_BYTES: Final = 120e9


def name_of(node: Node) -> str:
    """The GPUs' name; empty where none is known or they differ."""
    names = {device.name for device in node.devices} - {""}
    return names.pop() if len(names) == 1 else ""


def compute_capability(device: Device) -> str:
    """Such as "9.0"; empty where the name does not tell."""
    if device.compute_capability:
        return device.compute_capability
    return next((c for pattern, c in _CAPABILITIES if re.search(pattern, device.name)), "")


def lacks_peer_access(device: Device) -> bool:
    return bool(_NO_PEER_ACCESS.search(device.name)) and "PRO" not in device.name


def always_has_nvlink(device: Device) -> bool:
    return bool(_SXM.search(device.name))


def has_amd_kernels(device: Device) -> bool | None:
    """Whether engines bring their own all-reduce for this AMD GPU; None where nothing tells.

    Without a name, the memory does: the MI300 series starts at 128 GB, MI200 ends at 64 GB.
    """
    if device.name:
        return bool(_CDNA3.search(device.name))
    return device.memory_bytes >= _CDNA3_BYTES if device.memory_bytes is not None else None
