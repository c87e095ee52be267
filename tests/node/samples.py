"""Where real pastes lie, for the tests that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from shardwise.node.reading.read import Reading, read

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
needs_samples = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the samples (../shared/samples) are not here"
)


def sample(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def reading(name: str) -> Reading:
    return read(sample(name), name)


#: A node of four GPUs, as pasted; NVLink within pairs.
PASTE: Final = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-3)
GPU 3: NVIDIA H100 80GB HBM3 (UUID: GPU-4)
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity
GPU0     X      NV12    SYS     SYS     0-31,64-95    0
GPU1    NV12     X      SYS     SYS     0-31,64-95    0
GPU2    SYS     SYS      X      NV12    32-63,96-127   1
GPU3    SYS     SYS     NV12     X      32-63,96-127   1
"""
#: A start-up that failed for want of KV cache.
FAILED: Final = (
    "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens "
    "that can be stored in KV cache (86432).\n"
)
