"""Properties of an operator class: shape and work axes, rooflines, relatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates

#: (rates, variant, shape columns, work columns) -> seconds at peak rates; columns broadcast.
Ideal: TypeAlias = Callable[[Rates, str, Sequence[Array], Sequence[Array]], Array]
#: (measured shapes as columns, asked shape) -> factor on the first work axis, per measured shape.
Alike: TypeAlias = Callable[[Sequence[Array], Sequence[float]], Array]


def same_work(shapes: Sequence[Array], asked: Sequence[float]) -> Array:  # noqa: ARG001
    """Shapes are as efficient as each other at the same work."""
    return np.ones_like(shapes[0])


class Operator(msgspec.Struct, frozen=True):
    """One class of kernels.

    A table of a class has one row per *shape* (heads, hidden size, ...), which model and layout
    determine. Each row is a grid of *work* (tokens, context, bytes), which varies from step to
    step. Time increases with work.

    Attributes:
        name: Name of the class and prefix of its table files.
        shape: Names of the shape's columns.
        weights: Weight of each shape column in the distance between shapes.
        work: Names of the work axes; time never decreases along them.
        ideal: Expected roofline, used to transfer efficiency from one shape or GPU to another.
        bound: Strict roofline; no returned time is below it.
        relatives: Variants (dtypes, kernels) whose efficiency can be used instead, best first.
        alike: Factor on the first work axis at which a measured shape is as efficient as the asked
            one.
    """

    name: str
    shape: tuple[str, ...]
    weights: tuple[float, ...]
    work: tuple[str, ...]
    ideal: Ideal
    bound: Ideal
    relatives: Callable[[str], Sequence[str]]
    alike: Alike = same_work
