"""Storage formats of tensors: dtype, scales, and the dtype of the multiplication."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from shardwise.errors import InputError

Floats = NDArray[np.float64]


class Format(msgspec.Struct, frozen=True):
    """A storage format of weights.

    Attributes:
        dtype: Name of the dtype, as in `FORMATS`.
        bits: Bits of one weight, without scales.
        block: Rows (outputs) and columns (inputs) that share one scale; 0 is the whole dimension.
        scale_bytes: Bytes per block of the scale, zero point and any other metadata.
        activations: Dtype of the activations in the multiplication; 16 bits for weight-only.
        table_bytes: Bytes of the codebooks of a matrix, which every rank with a part of it has.
    """

    dtype: str
    bits: float
    block: tuple[int, int] = (0, 0)
    scale_bytes: float = 0.0
    activations: str = "bf16"
    table_bytes: float = 0.0

    def bytes_of(self, rows: ArrayLike, cols: ArrayLike) -> Floats:
        """Bytes of `rows` x `cols` weights with their scales and codebooks. Broadcasts."""
        r, c = np.asarray(rows, np.float64), np.asarray(cols, np.float64)
        scales: Floats | float = 0.0
        if self.scale_bytes:
            down = np.ceil(r / self.block[0]) if self.block[0] else 1.0
            across = np.ceil(c / self.block[1]) if self.block[1] else 1.0
            scales = self.scale_bytes * down * across
        if self.table_bytes:
            scales = scales + np.where(r * c > 0, self.table_bytes, 0.0)
        return np.asarray(self.bits / 8 * r * c + scales)

    def size(self, rows: int, cols: int) -> float:
        """Bytes of one matrix of `rows` x `cols` weights with its scales and codebooks."""
        scales = 0.0
        if self.scale_bytes:
            down = -(-rows // self.block[0]) if self.block[0] else 1
            across = -(-cols // self.block[1]) if self.block[1] else 1
            scales = self.scale_bytes * down * across
        if self.table_bytes and rows and cols:
            scales += self.table_bytes
        return self.bits / 8 * rows * cols + scales

    @property
    def is_quantized(self) -> bool:
        """Whether the dtype is narrower than 16-bit floating point."""
        return self.dtype not in UNQUANTIZED


UNQUANTIZED: Final = frozenset({"fp32", "bf16", "fp16"})
BF16: Final = Format("bf16", 16)
#: Usual format of each dtype, used if a user names a dtype and no checkpoint specifies more.
#: Block sizes: OCP Microscaling 1.0 (mx: 32 weights, one 8-bit scale), NVIDIA's NVFP4 (16 weights,
#: one fp8 scale), AWQ and GPTQ (groups of 128, a 16-bit scale), per-channel 32-bit scales else.
FORMATS: Final = {
    "fp32": Format("fp32", 32, activations="fp32"),
    "bf16": BF16,
    "fp16": Format("fp16", 16, activations="fp16"),
    "fp8": Format("fp8", 8, (1, 0), 4.0, "fp8"),
    "int8": Format("int8", 8, (1, 0), 4.0, "int8"),
    "mxfp8": Format("mxfp8", 8, (1, 32), 1.0, "fp8"),
    "mxfp6": Format("mxfp6", 6, (1, 32), 1.0, "fp8"),
    "mxfp4": Format("mxfp4", 4, (1, 32), 1.0, "fp4"),
    "nvfp4": Format("nvfp4", 4, (1, 16), 1.0, "fp4"),
    "int4": Format("int4", 4, (1, 128), 2.0, "bf16"),
}
DTYPES: Final = tuple(FORMATS)


def usual_format(dtype: str) -> Format:
    """Return the usual format of `dtype`; "fp4" is nvfp4. Raises InputError if unknown."""
    found = FORMATS.get("nvfp4" if dtype == "fp4" else dtype)
    if found is None:
        raise InputError(
            f"weight dtype is {dtype[:40]!r}", f"allowed: auto, fp4, {', '.join(FORMATS)}"
        )
    return found
