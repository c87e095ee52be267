"""Where names stand on a chart: clear of lines, of marks and of each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

SAMPLE_PX: Final = 8.0  #: between samples of what a label must not hide
WIDTH_OF_SIZE: Final = 0.58  #: of a character of Liberation Sans, as a share of its size
Point = tuple[float, float]


class Label(msgspec.Struct, frozen=True):
    """The look of a name: its size, and how far it stands off its point, in pixels."""

    size: int
    dx: float
    dy: float

    def offsets(self, side: str) -> list[tuple[str, float, float]]:
        """Alignments and offsets to try, those on `side` of the point, "left" or "right", first."""
        first, second = ("left", "right") if side == "right" else ("right", "left")
        across = {"left": self.dx, "right": -self.dx}
        above, below = -self.dy, self.dy + self.size
        return [
            (first, across[first], above),
            (second, across[second], below),
            (first, across[first], below),
            (second, across[second], above),
        ]


class Place(msgspec.Struct, frozen=True):
    """One place of a label: alignment and offsets of Vega, its box in pixels, and how much of what
    is drawn it hides."""

    align: str
    dx: float
    dy: float
    left: float
    bottom: float
    width: float
    height: float
    hides: int


class Paper:
    """A chart from 0 to `wide` and `high`, of `width` x `height` pixels."""

    def __init__(self, width: float, height: float, wide: float, high: float) -> None:
        self.width, self.height, self.wide, self.high = width, height, wide, high
        self.drawn: list[Point] = []  #: in pixels from the top left
        self._array = np.empty((0, 2))  #: the same, made anew where it is shorter

    def at(self, point: Point) -> Point:
        """A point in pixels."""
        return self.width * point[0] / self.wide, self.height * (1.0 - point[1] / self.high)

    def line(self, points: Sequence[Point]) -> None:
        """Keep labels off a line, or off a point alone."""
        found = [self.at(point) for point in points]
        self.drawn += found
        for (x0, y0), (x1, y1) in pairwise(found):
            steps = max(int(max(abs(x1 - x0), abs(y1 - y0)) / SAMPLE_PX), 1)
            self.drawn += [
                (x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps)
            ]

    def best(self, point: Point, text: str, look: Label, side: str) -> Place:
        """The place of `text` near `point` that hides least, the first of equals."""
        width = WIDTH_OF_SIZE * look.size * len(text)
        tried = [self._tried(point, width, look.size, offset) for offset in look.offsets(side)]
        return min(tried, key=lambda place: place.hides)

    def _tried(
        self, point: Point, width: float, height: float, offset: tuple[str, float, float]
    ) -> Place:
        (x, y), (align, dx, dy) = self.at(point), offset
        left, bottom = x + dx - (0.0 if align == "left" else width), y + dy
        if len(self._array) < len(self.drawn):
            self._array = np.array(self.drawn)
        across, down = self._array.T
        hides = int(
            np.count_nonzero(
                (left - 2 <= across)
                & (across <= left + width + 2)
                & (bottom - height - 1 <= down)
                & (down <= bottom + 3)
            )
        )
        cut = left < 0 or left + width > self.width + 20 or bottom > self.height - height
        return Place(align, dx, dy, left, bottom, width, height, hides + 100 * cut)

    def take(self, place: Place) -> dict[str, Any]:
        """Keep other labels off `place`. Returns what Vega draws it with."""
        steps = max(int(place.width / SAMPLE_PX), 1)
        self.drawn += [
            (place.left + place.width * i / steps, place.bottom - place.height * up)
            for i in range(steps + 1)
            for up in (0.0, 0.5, 1.0)
        ]
        return {"align": place.align, "dx": place.dx, "dy": place.dy}
