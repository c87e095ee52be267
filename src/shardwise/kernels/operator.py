"""What one operator class must say about itself to be tabulated, transferred and bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates

#: (rates, variant, shape columns, work columns) -> seconds at peak rates; columns broadcast.
Ideal: TypeAlias = Callable[[Rates, str, Sequence[Array], Sequence[Array]], Array]


class Operator(msgspec.Struct, frozen=True):
    """One class of kernels.

    A table of a class has rows of equal *shape* (heads, hidden size, ...: what a model and layout
    fix) and a grid of *work* (tokens, context, bytes: what a step varies, and time rises with).

    Attributes:
        name: Name of the class and of its folder of tables.
        shape: Names of the shape's columns.
        weights: Octaves of distance that one octave of each shape column counts for.
        work: Names of the work axes; time never falls along them.
        ideal: Expected roofline, used to carry efficiency from one shape or GPU to another.
        bound: Strict roofline that no answer goes below.
        relatives: Variants (dtypes, kernels) whose efficiency may stand in, best first.
    """

    name: str
    shape: tuple[str, ...]
    weights: tuple[float, ...]
    work: tuple[str, ...]
    ideal: Ideal
    bound: Ideal
    relatives: Callable[[str], Sequence[str]]
