"""Where to put the labels of points so that they cover neither points nor each other."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  #: left, top, right, bottom in pixels, y downwards
HALF_MARK = 5.0
CHARACTER, LINE = 6.6, 11.0  #: of a 10 px label
#: where a label's centre may stand, as multiples of (half width + gap, half height + gap)
_DIRECTIONS = ((1, 0.9), (-1, -0.9), (1, -0.9), (-1, 0.9), (0, 1.6), (0, -1.6), (1, 0), (-1, 0))


def place(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float] | None]:
    """Centre of each label in pixels, or None where no free place touches its point.

    `obstacles` are further points to keep clear. First come, first served.
    """
    taken = [_around(*point, HALF_MARK, HALF_MARK) for point in (*points, *obstacles)]
    places: list[tuple[float, float] | None] = []
    for (x, y), label in zip(points, labels, strict=True):
        half_width, half_height = CHARACTER * len(label) / 2, LINE / 2
        choices = (
            (x + dx * (half_width + HALF_MARK + 1), y + dy * (half_height + HALF_MARK))
            for dx, dy in _DIRECTIONS
        )
        for choice in choices:
            box = _around(*choice, half_width, half_height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                places.append(choice)
                break
        else:
            places.append(None)
    return places


def _around(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
