"""Parse software versions and GPU names from `collect_env`, `sglang.check_env` and pip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from shardwise.node.node import Device
from shardwise.node.reading.text import Line

_VERSIONS: Final = (
    ("vllm", re.compile(r"^\W*vLLM Version\s*:\s*([^\s@]+)", re.IGNORECASE)),
    ("sglang", re.compile(r"^\W*sglang\s*(?::|==)\s*v?(\d\S*)", re.IGNORECASE)),
    ("vllm", re.compile(r"^\W*(?:\[pip3\]\s*)?vllm==(\d\S*)")),
    ("torch", re.compile(r"^\W*PyTorch(?: version)?\s*:\s*(\d\S*)")),
    ("cuda", re.compile(r"^\W*CUDA runtime version\s*:\s*(\d\S*)")),
    ("rocm", re.compile(r"^\W*(?:ROCM Version|HIP runtime version)\s*:\s*(\d\S*)")),
    ("driver", re.compile(r"^\W*(?:Nvidia driver version|CUDA Driver Version)\s*:\s*(\d\S*)")),
    ("nccl", re.compile(r"vLLM is using nccl==(\d\S*)|NCCL version (\d[\w.]*)")),
)
_GPUS: Final = re.compile(
    r"^\W*(?:GPU models and configuration\s*:\s*)?GPU (\d+(?:\s*,\s*\d+)*)\s*:\s*"
    r"((?:NVIDIA|AMD|Tesla|GeForce|Quadro|RTX|TITAN|GRID|Instinct|Radeon)\b[^(]*?)\s*(?:\(UUID.*)?$"
)
#: On ROCm, PyTorch names only the first GPU, with its target and without an index.
_FIRST: Final = re.compile(
    r"^\W*GPU models and configuration\s*:\s*((?:AMD|Radeon)\b[^(]*?)\s*\(gfx\w+"
)
_CAPABILITY: Final = re.compile(r"^\W*GPU (\d+(?:\s*,\s*\d+)*) Compute Capability\s*:\s*(\d+\.\d+)")


class Environment(msgspec.Struct, frozen=True):
    """Versions by name (vllm, sglang, torch, cuda, rocm, driver, nccl), and GPUs by index."""

    versions: dict[str, str] = msgspec.field(default_factory=dict)
    devices: dict[int, Device] = msgspec.field(default_factory=dict)
    gpu: str = ""  #: name of the first AMD GPU; usually all have the same


def read_environment(lines: Sequence[Line]) -> Environment:
    """Return the versions and GPU names in `lines`. "Could not collect" is skipped."""
    versions: dict[str, str] = {}
    names: dict[int, str] = {}
    capabilities: dict[int, str] = {}
    gpu = ""
    for line in lines:
        for name, pattern in _VERSIONS:
            if name not in versions and (found := pattern.search(line.text)):
                versions[name] = next(g for g in found.groups() if g)
        if found := _FIRST.search(line.text):
            gpu = gpu or found[1]
        if found := _CAPABILITY.search(line.text):
            capabilities |= dict.fromkeys(_indices(found[1]), found[2])
        elif found := _GPUS.search(line.text):
            names |= dict.fromkeys(_indices(found[1]), found[2])
    devices = {
        i: Device(i, name=names.get(i, ""), compute_capability=capabilities.get(i, ""))
        for i in sorted({*names, *capabilities})
    }
    return Environment(versions, devices, gpu)


def says_nothing(version: str) -> bool:
    """Return whether a version is the placeholder of a source build, which has no release."""
    return bool(re.match(r"0\.[01]\.(?:0\.)?dev", version))


def _indices(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
