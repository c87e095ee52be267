from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardwise.reports.label_places import CHARACTER, HALF_MARK, LINE, place

spots = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=15)


def test_a_lone_label_stands_to_the_right_below_its_point() -> None:
    ((x, y),) = [spot for spot in place([(100, 100)], ["16"]) if spot]
    assert x > 100
    assert y > 100


def test_a_label_makes_way_for_a_point_to_its_right() -> None:
    ((x, _),) = [spot for spot in place([(100, 100)], ["16"], [(112, 108)]) if spot]
    assert x < 112 - HALF_MARK


def test_a_point_in_a_crowd_gets_no_label() -> None:
    crowd = [(100.0 + dx, 100.0 + dy) for dx in range(-40, 41, 8) for dy in range(-40, 41, 8)]
    assert place([(100, 100)], ["128"], crowd) == [None]


@given(spots)
def test_labels_cover_neither_points_nor_each_other(points: list[tuple[float, float]]) -> None:
    labels = ["128"] * len(points)
    boxes = [
        (x - 1.5 * CHARACTER, y - LINE / 2, x + 1.5 * CHARACTER, y + LINE / 2)
        for x, y in filter(None, place(points, labels))
    ]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
        for x, y in points:
            assert not (a[0] < x < a[2] and a[1] < y < a[3])
