"""Where to put the labels of points so that they cover neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

Box = tuple[float, float, float, float]  #: left, top, right, bottom in pixels, y downwards
HALF_MARK = 5.0
HALF_LINE = 1.5
CHARACTER, LINE = 6.6, 11.0  #: of a 10 px label
#: where a label's centre may stand, as multiples of (half width + gap, half height + gap)
_DIRECTIONS = ((1, 0.9), (-1, -0.9), (1, -0.9), (-1, 0.9), (0, 1.6), (0, -1.6), (1, 0), (-1, 0))


def place(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    obstacles: Sequence[tuple[float, float]] = (),
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> list[tuple[float, float] | None]:
    """Centre of each label in pixels, or None where no free place touches its point.

    `obstacles` are further points to keep clear; `lines`, each through its points, are kept clear
    where there is another place. First come, first served.
    """
    taken = [_around(*point, HALF_MARK, HALF_MARK) for point in (*points, *obstacles)]
    strokes = [_around(*spot, HALF_LINE, HALF_LINE) for line in lines for spot in _along(line)]
    places: list[tuple[float, float] | None] = []
    for (x, y), label in zip(points, labels, strict=True):
        half_width, half_height = CHARACTER * len(label) / 2, LINE / 2
        choices = [
            (x + dx * (half_width + HALF_MARK + 1), y + dy * (half_height + HALF_MARK))
            for dx, dy in _DIRECTIONS
        ]
        boxes = [_around(*choice, half_width, half_height) for choice in choices]
        free = [i for i, box in enumerate(boxes) if not _meets(box, taken)]
        clear = [i for i in free if not _meets(boxes[i], strokes)]
        best = next(iter(clear or free), None)
        places.append(None if best is None else choices[best])
        if best is not None:
            taken.append(boxes[best])
    return places


def _along(line: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Points on a polyline, a few pixels apart."""
    for (x, y), (to_x, to_y) in pairwise(line):
        steps = math.ceil(math.hypot(to_x - x, to_y - y) / (2 * HALF_LINE)) or 1
        for i in range(steps + 1):
            yield x + (to_x - x) * i / steps, y + (to_y - y) * i / steps


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(_overlap(box, other) for other in others)


def _around(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
