"""Names on a chart hide neither lines nor each other."""

from __future__ import annotations

import pytest

from shardwise.reports.label_places import Label, Paper

LOOK = Label(11, 8, 8)


@pytest.mark.parametrize(("side", "align"), [("right", "left"), ("left", "right")])
def test_a_name_alone_stands_above_on_the_side_asked(side: str, align: str) -> None:
    paper = Paper(800, 400, 100, 100)
    paper.line([(50, 50)])
    place = paper.best((50, 50), "TP4", LOOK, side)
    assert (place.align, place.dy, place.hides) == (align, -8, 0)


def test_a_name_moves_off_a_line_that_runs_through_its_place() -> None:
    paper = Paper(800, 400, 100, 100)
    # level with the text right above (400, 200): y = 200 - 8 - 5 px, so 53.25 of 100
    paper.line([(50, 53.25), (100, 53.25)])
    place = paper.best((50, 50), "TP4", LOOK, "right")
    assert (place.align, place.hides) == ("right", 0)


def test_two_names_of_one_point_do_not_lie_on_each_other() -> None:
    paper = Paper(800, 400, 100, 100)
    first = paper.best((50, 50), "4 × TP2", LOOK, "right")
    paper.take(first)
    second = paper.best((50, 50), "4 × TP2", LOOK, "right")
    assert second.hides == 0
    assert (second.align, second.dy) != (first.align, first.dy)


def test_a_name_stays_on_the_paper() -> None:
    paper = Paper(800, 400, 100, 100)
    assert paper.best((0, 50), "TP4", LOOK, "left").align == "left"
    assert paper.best((100, 50), "TP4 × PP2", LOOK, "right").align == "right"
