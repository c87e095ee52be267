"""Datasheet rates of the GPUs that have tables."""

from __future__ import annotations

from typing import Final

from shardwise.errors import UnknownNameError
from shardwise.hardware.catalogue import load_catalogue
from shardwise.kernels.roofline import Rates, rates_of

#: GPUs that have tables and are not in the catalogue. NVIDIA RTX PRO 6000 Blackwell Server Edition
#: datasheet: 1,597 GB/s; 4 PFLOPS of sparse fp4, hence 2 dense, 1 of fp8 and 0.5 of bf16;
#: PCIe 5.0 x16, 64 GB/s one way.
_EXTRA: Final = {
    "rtx-pro-6000": Rates(
        gpu_id="rtx-pro-6000",
        vendor="nvidia",
        generation="blackwell",
        flops=(("bf16", 0.5e15), ("fp4", 2e15), ("fp8", 1e15)),
        memory=1.597e12,
        link=64e9,
        mesh_links=0,
        shared_bus=True,
    )
}


def rates_of_id(gpu_id: str) -> Rates:
    """Return the rates of a GPU, from the bundled catalogue or from this module.

    Raises:
        UnknownNameError: Neither has the GPU.
    """
    try:
        return rates_of(load_catalogue().gpu(gpu_id))
    except UnknownNameError:
        if gpu_id in _EXTRA:
            return _EXTRA[gpu_id]
        raise
