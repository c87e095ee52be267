"""Where a kernel time comes from, so that an interval can be widened by distance."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

Array: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.uint8]
Places: TypeAlias = npt.NDArray[np.intp]
#: What every operator accepts for a size: one number, or an array that broadcasts with the rest.
Sizes: TypeAlias = float | npt.ArrayLike


class Provenance(IntEnum):
    """How far a time is from a measurement, nearest first."""

    MEASURED = 0  #: a point of the table of this GPU, engine and dtype
    INTERPOLATED = 1  #: between points of that table
    EXTRAPOLATED = 2  #: outside its range, efficiency held constant
    OTHER_ENGINE = 3  #: another engine's kernels on this GPU
    OTHER_DTYPE = 4  #: another dtype's efficiency on this GPU
    OTHER_GPU = 5  #: another GPU's efficiency on this GPU's datasheet rates
    ROOFLINE = 6  #: datasheet rates times an assumed efficiency


class Times(msgspec.Struct, frozen=True):
    """Seconds of one call per element, and how well each is known.

    Attributes:
        seconds: Time of one call, with the broadcast shape of the sizes given.
        provenance: A `Provenance` code per element.
        distance: Octaves (log2) between what was asked and the nearest measured shape and work;
            0 at a measured point. Add it to an interval's width.
        source: The table used, e.g. "h200 vllm 0.24.0 fp8".
    """

    seconds: Array
    provenance: Codes
    distance: Array
    source: str

    def plus(self, seconds: Array, other: Times) -> Times:
        """These times and `seconds` that `other` was asked for, as little known as the worse."""
        total = np.asarray(self.seconds + seconds)
        codes = np.maximum(self.provenance, other.provenance)
        return Times(
            total,
            np.broadcast_to(codes, total.shape).astype(np.uint8),
            np.broadcast_to(np.maximum(self.distance, other.distance), total.shape),
            f"{self.source}, {other.source}",
        )

    def at_least(self, provenance: Provenance, where: npt.ArrayLike = True) -> Times:
        """The same times, no nearer than `provenance` where `where` holds."""
        farther = np.maximum(self.provenance, np.uint8(provenance))
        codes = np.where(where, farther, self.provenance).astype(np.uint8)
        return replace(self, provenance=codes)
