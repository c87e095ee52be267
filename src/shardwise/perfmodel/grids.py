"""Grids for tables of a step's kernels, and interpolation between their nodes.

Times are interpolated linearly in tokens, sequences and contexts, and extrapolated linearly beyond
the last node: a kernel takes a launch plus proportional time.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Nodes per octave, and the nodes: tokens of a step, decoding sequences, tokens of context.
PER_OCTAVE: Final = 2
TOKENS: Final = 2.0 ** (np.arange(35) / PER_OCTAVE)
SEQUENCES: Final = 2.0 ** (np.arange(27) / PER_OCTAVE)
CONTEXTS: Final[Array] = 2.0 ** np.arange(4, 21, dtype=np.float64)


class Place(msgspec.Struct, frozen=True):
    """Position of values on a grid: the node below, and the fraction towards the next one."""

    cell: NDArray[np.int64]
    share: Array


def place(values: NDArray[np.floating[Any]], nodes: Array, per_octave: int = PER_OCTAVE) -> Place:
    """Return the position of `values` among `nodes`, spaced by 1 / `per_octave` octaves."""
    held = np.maximum(values, nodes[0])
    first = np.log2(nodes[0]) * per_octave
    cell = np.floor(np.log2(held) * per_octave - first + 1e-9).astype(np.int64)
    cell = np.minimum(cell, len(nodes) - 2)
    low = nodes[cell]
    return Place(cell, (held - low) / (nodes[cell + 1] - low))


def along(table: Array, subject: NDArray[np.int64], at: Place) -> Array:
    """Interpolate a table (subjects, nodes, ...) at a place; trailing axes are kept."""
    low, high = table[subject, at.cell], table[subject, at.cell + 1]
    share = at.share if low.ndim == np.ndim(at.share) else at.share[..., None]
    return np.asarray(low + share * (high - low))


def across(table: Array, subject: NDArray[np.int64], first: Place, second: Place) -> Array:
    """Interpolate a table (subjects, first nodes, second nodes) at a pair of places."""
    low = table[subject, first.cell, second.cell] * (1.0 - second.share)
    low = low + table[subject, first.cell, second.cell + 1] * second.share
    high = table[subject, first.cell + 1, second.cell] * (1.0 - second.share)
    high = high + table[subject, first.cell + 1, second.cell + 1] * second.share
    return np.asarray(low + first.share * (high - low))
