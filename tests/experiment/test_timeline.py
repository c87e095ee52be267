"""What an experiment's time went on: parts add up, and what is left is idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shardwise.experiment.timeline import Spent, Timeline


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found.monotonic)
    return found


def test_each_part_has_its_time_and_the_rest_is_idle(clock: Clock) -> None:
    line = Timeline()
    for seconds in (3.0, 4.0):
        with line.doing("measuring"):
            clock.now += seconds
    clock.now += 2.0
    with line.doing("analysis"):
        clock.now += 1.0
    spent = line.spent()
    assert spent.by == {"measuring": 7.0, "analysis": 1.0}
    assert (spent.total_s, spent.idle_s, spent.idle_pct) == (10.0, 2.0, 20.0)


def test_what_fails_has_taken_its_time_too(clock: Clock) -> None:
    line = Timeline()

    def start() -> None:
        with line.doing("starting"):
            clock.now += 5.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()
    assert line.spent().by == {"starting": 5.0}


@contextmanager
def service(clock: Clock) -> Iterator[str]:
    clock.now += 20.0
    yield "up"
    clock.now += 3.0


def test_a_services_start_and_end_are_named_and_its_use_is_not(clock: Clock) -> None:
    line = Timeline()
    with line.using(service(clock)) as found:
        assert found == "up"
        clock.now += 7.0
    assert line.spent().by == {"starting": 20.0, "stopping": 3.0}
    assert line.spent().idle_s == 7.0


def test_a_service_is_left_where_its_use_fails(clock: Clock) -> None:
    left = []

    @contextmanager
    def watched() -> Iterator[None]:
        try:
            yield
        finally:
            clock.now += 1.0
            left.append(True)

    line = Timeline()
    with pytest.raises(ValueError, match="within"), line.using(watched()):
        raise ValueError("within")
    assert left == [True]
    assert line.spent().by["stopping"] == 1.0


def test_parts_that_overlap_leave_no_negative_rest() -> None:
    assert Spent(5.0, {"measuring": 4.0, "hardware": 3.0}).idle_s == 0.0
    assert Spent(0.0, {}).idle_pct == 0.0
