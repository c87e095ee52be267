"""What an engine must know of a GPU."""

from __future__ import annotations

from typing import Final

import msgspec

from shardwise.hardware.gpu import Gpu

#: Compute capability by generation, where a catalogue names only that. Blackwell workstation GPUs
#: (sm_120) must name theirs. https://developer.nvidia.com/cuda-gpus
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
#: AMD generations whose matrix units multiply fp8: MI300 on, and RDNA4
#: (vllm/platforms/rocm.py, supports_fp8: gfx94, gfx95, gfx12).
_AMD_FP8: Final = frozenset({"cdna3", "cdna4", "rdna4"})
#: fp4 matrix rates: Blackwell (datasheets) and MI350 (gfx950).
_AMD_FP4: Final = frozenset({"cdna4"})


class Device(msgspec.Struct, frozen=True):
    """One GPU, or one rank's share of a CPU.

    Attributes:
        vendor: "nvidia", "amd", "intel" or "cpu".
        memory_bytes: What the driver reports; 0 if not known.
        generation: "hopper", "cdna3", …, as in the catalogue.
        compute_capability: NVIDIA's; None takes the generation's.
        name: As the driver reports it; vLLM's defaults ask whether it is an A100.
    """

    vendor: str = "nvidia"
    memory_bytes: float = 0.0
    generation: str = ""
    compute_capability: tuple[int, int] | None = None
    name: str = ""

    @property
    def capability(self) -> tuple[int, int] | None:
        """NVIDIA's compute capability; None for other vendors and where it is not known."""
        if self.vendor != "nvidia":
            return None
        return self.compute_capability or CAPABILITIES.get(self.generation)

    @property
    def is_sm100(self) -> bool:
        """Blackwell of data centers (compute capability 10.x), which has kernels of its own."""
        return self.capability is not None and self.capability[0] == 10

    @property
    def multiplies_fp8(self) -> bool:
        """Whether matrix units take fp8. True where an NVIDIA GPU's capability is not known."""
        if self.vendor == "nvidia":
            return self.capability is None or self.capability >= (8, 9)
        return self.vendor == "amd" and self.generation in _AMD_FP8

    @property
    def multiplies_fp4(self) -> bool:
        """Whether matrix units take 4-bit floats."""
        if self.vendor == "nvidia":
            return self.capability is not None and self.capability >= (10, 0)
        return self.vendor == "amd" and self.generation in _AMD_FP4


def device_of(gpu: Gpu) -> Device:
    """A GPU of the catalogue as engines see it."""
    return Device(
        vendor=gpu.vendor,
        memory_bytes=gpu.visible_memory_bytes,
        generation=gpu.generation,
        compute_capability=gpu.compute_capability,
        name=gpu.name,
    )
