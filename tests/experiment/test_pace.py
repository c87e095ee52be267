"""A machine's pace: fixed work, timed; kept with the run that lay between."""

from __future__ import annotations

import math

import pytest

from shardwise.evidence.measured import Measured, Repeat
from shardwise.evidence.record import Evidence, Source
from shardwise.experiment.pace import drift, pace_s, paces_of, with_pace
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload


def test_a_pace_is_a_time() -> None:
    assert 0.001 < pace_s(1) < 5.0


def test_each_run_keeps_the_paces_it_lay_between() -> None:
    evidence = Evidence(
        Deployment(
            model="m",
            gpu="cpu",
            layout=Layout(tp_size=1),
        ),
        Workload(8, 8, 1),
        {},
        Source("measured", "t"),
    )
    first = Repeat(0.0, 1.0, (0.0, 1.0), (), {"lag_p99_s": 0.001})
    cell = with_pace(Measured("s", "k", evidence, {"seed": 0}, (first,)), 0.03, 0.04)
    assert cell.repeats[0].client == {"lag_p99_s": 0.001, "pace_s": [0.03, 0.04]}
    again = with_pace(Measured("s", "k", evidence, {}, (*cell.repeats, first)), 0.05, 0.06)
    assert paces_of(again.conditions) == (0.03, 0.04, 0.05, 0.06)
    assert paces_of({}) == ()


def test_drift_is_the_slowest_over_the_fastest() -> None:
    assert drift([0.03, 0.045, 0.036]) == pytest.approx(0.5)
    assert math.isnan(drift([0.03]))
