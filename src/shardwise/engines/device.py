"""The properties of a GPU that an engine's rules depend on."""

from __future__ import annotations

from typing import Final

import msgspec

from shardwise.hardware.gpu import Gpu

#: Compute capability by generation, for GPUs without one in the catalogue. Blackwell workstation
#: GPUs (sm_120) must state theirs. Source: https://developer.nvidia.com/cuda-gpus
CAPABILITIES: Final = {
    "volta": (7, 0),
    "turing": (7, 5),
    "ampere": (8, 0),
    "ada": (8, 9),
    "hopper": (9, 0),
    "blackwell": (10, 0),
    "blackwell_ultra": (10, 3),
    "rubin": (10, 7),
}
#: AMD generations whose matrix units support fp8: from MI300 on, and RDNA4.
#: Source: vllm/platforms/rocm.py, supports_fp8 (gfx94, gfx95, gfx12).
_AMD_FP8: Final = frozenset({"cdna3", "cdna4", "rdna4"})
#: Generations whose matrix units support fp4: Blackwell (datasheets) and MI350 (gfx950).
_AMD_FP4: Final = frozenset({"cdna4"})


class Device(msgspec.Struct, frozen=True):
    """One GPU, or one rank's share of a CPU.

    Attributes:
        vendor: "nvidia", "amd", "intel" or "cpu".
        memory_bytes: As the driver reports it; 0 if unknown.
        generation: "hopper", "cdna3", …, as in the catalogue.
        compute_capability: Of NVIDIA GPUs; None means that of the generation.
        name: As the driver reports it. vLLM's defaults differ on an A100.
    """

    vendor: str = "nvidia"
    memory_bytes: float = 0.0
    generation: str = ""
    compute_capability: tuple[int, int] | None = None
    name: str = ""

    @property
    def capability(self) -> tuple[int, int] | None:
        """NVIDIA compute capability; None for other vendors or if unknown."""
        if self.vendor != "nvidia":
            return None
        return self.compute_capability or CAPABILITIES.get(self.generation)

    @property
    def is_sm100(self) -> bool:
        """Whether this is a data-center Blackwell (10.x), for which there are special kernels."""
        return self.capability is not None and self.capability[0] == 10

    @property
    def uses_flash_attention(self) -> bool:
        """Whether engines prefer FlashAttention here: NVIDIA GPUs from Ampere to Hopper."""
        return self.capability is not None and (8, 0) <= self.capability < (10, 0)

    @property
    def multiplies_fp8(self) -> bool:
        """Whether the matrix units support fp8. True for NVIDIA GPUs of unknown capability."""
        if self.vendor == "nvidia":
            return self.capability is None or self.capability >= (8, 9)
        return self.vendor == "amd" and self.generation in _AMD_FP8

    @property
    def multiplies_fp4(self) -> bool:
        """Whether the matrix units support 4-bit floats."""
        if self.vendor == "nvidia":
            return self.capability is not None and self.capability >= (10, 0)
        return self.vendor == "amd" and self.generation in _AMD_FP4


def device_of(gpu: Gpu) -> Device:
    """Return the device record of a catalogue GPU."""
    return Device(
        vendor=gpu.vendor,
        memory_bytes=gpu.visible_memory_bytes,
        generation=gpu.generation,
        compute_capability=gpu.compute_capability,
        name=gpu.name,
    )
