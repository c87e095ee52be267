"""Provenance of kernel times, which determines the width of intervals."""

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
    EXTRAPOLATED = 2  #: outside its range, efficiency beyond the launch held constant
    OTHER_ENGINE = 3  #: another engine's kernels on this GPU
    OTHER_DTYPE = 4  #: another dtype's efficiency on this GPU
    OTHER_GPU = 5  #: another GPU's efficiency on this GPU's datasheet rates
    ROOFLINE = 6  #: datasheet rates times an assumed efficiency


class Times(msgspec.Struct, frozen=True):
    """Seconds of one call per element, with their provenance.

    Attributes:
        seconds: Time of one call, with the broadcast shape of the given sizes.
        provenance: A `Provenance` code per element.
        distance: Octaves (log2) to the nearest measured shape and work; 0 at a measured point.
        source: The table used, e.g. "h200 vllm 0.24.0 fp8".
    """

    seconds: Array
    provenance: Codes
    distance: Array
    source: str

    def plus(self, seconds: Array, other: Times) -> Times:
        """Add `seconds` to these times. Provenance and distance are the worse of both."""
        total = np.asarray(self.seconds + seconds)
        codes = np.maximum(self.provenance, other.provenance)
        return Times(
            total,
            np.broadcast_to(codes, total.shape).astype(np.uint8),
            np.broadcast_to(np.maximum(self.distance, other.distance), total.shape),
            f"{self.source}, {other.source}",
        )

    def at_least(self, provenance: Provenance, where: npt.ArrayLike = True) -> Times:
        """Return the same times with provenance at least `provenance` where `where` is true."""
        farther = np.maximum(self.provenance, np.uint8(provenance))
        codes = np.where(where, farther, self.provenance).astype(np.uint8)
        return replace(self, provenance=codes)

    def at_most(self, other: Times) -> Times:
        """Return the smaller seconds of both. Provenance is the worse of both where `other` is
        smaller."""
        less = other.seconds < self.seconds
        codes = np.maximum(self.provenance, other.provenance)
        return Times(
            np.minimum(self.seconds, other.seconds),
            np.where(less, codes, self.provenance).astype(np.uint8),
            np.where(less, np.maximum(self.distance, other.distance), self.distance),
            f"{self.source}, {other.source}" if less.any() else self.source,
        )
