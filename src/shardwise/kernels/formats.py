"""Number formats of GEMM and expert tables: bytes moved, matrix rate, nearest relatives.

Names are those of the tables, with `bf16` for bfloat16.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shardwise.errors import UnknownNameError
from shardwise.kernels.roofline import Rates


class Format(msgspec.Struct, frozen=True):
    """How one format stores weights and activations.

    Attributes:
        weight_bytes: Bytes per weight, scales included.
        activation_bytes: Bytes per input element as the matrix kernel reads it.
        rate: Key of `Gpu.flops` whose matrix rate it runs at.
        relatives: Formats whose efficiency can be used instead, best first.
    """

    weight_bytes: float
    activation_bytes: float
    rate: str
    relatives: tuple[str, ...]


_FP8: Final = ("fp8", "fp8_block", "int8", "sq", "bf16")
_FP4: Final = ("nvfp4", "mxfp4", "w4a8_mxfp4_mxfp8", "fp8_block", "fp8", "bf16")
_WEIGHT_ONLY: Final = ("int4_wo", "w4a16_mxfp4", "int8_wo", "bf16")

#: Block scales: fp8_block one fp32 per 128 x 128; nvfp4 one byte per 16; mxfp4 one byte per 32;
#: int4_wo one bf16 per 128.
FORMATS: Final[dict[str, Format]] = {
    "fp32": Format(4.0, 4.0, "fp32", ("fp32", "bf16")),
    "bf16": Format(2.0, 2.0, "bf16", ("bf16", "fp8_block", "fp8")),
    "fp8": Format(1.0, 1.0, "fp8", _FP8),
    "fp8_block": Format(1.0, 1.0, "fp8", ("fp8_block", "fp8", "int8", "sq", "bf16")),
    "int8": Format(1.0, 1.0, "fp8", ("int8", "sq", "fp8", "fp8_block", "bf16")),
    "sq": Format(1.0, 1.0, "fp8", ("sq", "int8", "fp8", "fp8_block", "bf16")),
    "nvfp4": Format(0.5625, 0.5625, "fp4", _FP4),
    "mxfp4": Format(0.53125, 0.53125, "fp4", ("mxfp4", "nvfp4", *_FP4[2:])),
    "w4a8_mxfp4_mxfp8": Format(0.53125, 1.03125, "fp8", ("w4a8_mxfp4_mxfp8", *_FP4)),
    "w4a16_mxfp4": Format(0.53125, 2.0, "bf16", ("w4a16_mxfp4", *_WEIGHT_ONLY)),
    "int4_wo": Format(0.515625, 2.0, "bf16", _WEIGHT_ONLY),
    "int8_wo": Format(1.0, 2.0, "bf16", ("int8_wo", "int4_wo", "w4a16_mxfp4", "bf16")),
}


def format_of(name: str) -> Format:
    """Return the format called `name`. Raises UnknownNameError, with similar names."""
    if name not in FORMATS:
        raise UnknownNameError("kernel dtype", name, FORMATS)
    return FORMATS[name]


def runs_as(rates: Rates, name: str) -> str:
    """Return the format whose kernels a GPU runs: weight-only if it lacks matrix units for `name`.

    Engines run fp8 on Ampere and fp4 on Hopper as weight-only kernels at the 16-bit rate (Marlin).
    """
    form = format_of(name)
    if rates.has(form.rate) or form.rate in ("bf16", "fp32"):
        return name
    return "w4a16_mxfp4" if form.weight_bytes < 0.75 else "int8_wo"


def slower_formats(rates: Rates, name: str) -> list[str]:
    """Return the formats that cannot be faster than `name` on a GPU: at least as many bytes per
    weight, and multiplied at most as fast.

    Formats that are multiplied in 16 bits are left out of both sides. Their kernels unpack weights,
    which takes longer than a larger format at many rows.
    """
    form = format_of(name)
    if form.rate not in ("fp8", "fp4"):
        return []
    return [
        other
        for other, wider in FORMATS.items()
        if other != name
        and (wider.rate in ("fp8", "fp4") or other == "bf16")
        and wider.weight_bytes >= form.weight_bytes
        and rates.matrix(wider.rate) <= rates.matrix(form.rate)
    ]
