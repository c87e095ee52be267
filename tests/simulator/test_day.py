"""Replicas by the hour, with numbers that can be worked out."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.errors import InputError, NothingMeetsError
from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.capacity import Target
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.day import size_day
from shardwise.simulator.fleet import Group
from shardwise.simulator.simulate import Change, simulate
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import make_trace
from shardwise.simulator.traffic import Lengths

needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
LENGTHS = Lengths(8), Lengths(10)
BOUND = [Target("ttft_s", 99, 1.0)]


def toy(replicas: int = 1) -> Group:
    """One slot, 10 steps of 0.01 s a request: 10 requests/s a replica at most."""
    flat = StepTable(np.full(3, 0.01), np.full(514, 0.01), plane(0.0), plane(0.0))
    return Group(
        Deployment("toy", "h200", Layout(replicas=replicas)),
        flat,
        1,
        512,
        1000,
        1000,
        0.0,
        0.0,
        0.0,
        {},
    )


@needs_numba
def test_a_day_with_a_peak_needs_more_then_and_an_autoscaler_misses_its_beginning() -> None:
    day = size_day(toy(), [4.0, 40.0, 4.0], LENGTHS, BOUND, start_up_s=120.0, stage_s=1200.0)
    assert [hour.needed for hour in day.hours][::2] == [1, 1]
    peak = day.hours[1].needed
    assert 5 <= peak <= 7  # 40 requests/s at 10 each, with room for bursts
    always, schedule, autoscaler = day.plans
    assert always.replica_hours == pytest.approx(peak * 1.0)
    # two quiet stages of a replica, one of the peak's, whose others start 120 s ahead
    expected = (2 * 1200 + 1200 * peak + 120 * (peak - 1)) / 3600
    assert schedule.replica_hours == pytest.approx(expected)
    assert always.missed <= schedule.missed < 0.02 * schedule.requests
    # at least the start-up time's arrivals come to one replica, which serves a quarter of them
    assert autoscaler.missed > 100 * 30
    assert day.hours[1].good_autoscaled < day.hours[1].good_scheduled
    assert day.hours[0].good_autoscaled > 0.98
    assert 1.0 <= day.hours[0].autoscaled < 2.0
    assert day.hours[1].autoscaled > 0.8 * peak


@needs_numba
def test_an_hour_near_its_limit_gets_another_replica_than_a_short_run_asks_for() -> None:
    # 9.7 of 10 requests/s: a queue of 100 s grows over hours, not in the first minutes
    bound = [Target("ttft_s", 99, 4.0)]
    rates = [9.7, 1.0]
    day = size_day(toy(), rates, LENGTHS, bound, start_up_s=0.0, stage_s=3600.0)
    assert day.hours[0].needed == 2
    assert all(hour.good_scheduled >= 0.99 for hour in day.hours)


@needs_numba
def test_a_steady_day_costs_the_same_whoever_plans_it() -> None:
    day = size_day(toy(), [4.0, 4.0], LENGTHS, BOUND, start_up_s=60.0, stage_s=1800.0)
    assert [plan.replica_hours for plan in day.plans][:2] == [1.0, 1.0]
    assert day.plans[0].missed == day.plans[1].missed


def test_a_replica_that_goes_ends_what_it_has_and_one_that_comes_takes_requests() -> None:
    trace = make_trace(np.array([0.0, 0.0, 0.05, 0.3]), np.full(4, 8), np.full(4, 10))
    changes = [Change(1, 0.02, up=False), Change(0, 0.2, up=False), Change(1, 0.25, up=True)]
    q = simulate([toy(2)], trace, changes=changes).requests
    assert (q.status == 1).all()
    assert sorted(q.replica[:2].tolist()) == [0, 1]
    assert q.replica[2:].tolist() == [0, 1]
    assert q.finish[:2].tolist() == pytest.approx([0.1, 0.1])


@needs_numba
def test_what_cannot_be_sized_is_refused() -> None:
    with pytest.raises(InputError, match="start-up is -1 s"):
        size_day(toy(), [1.0], LENGTHS, BOUND, start_up_s=-1.0)
    with pytest.raises(InputError, match="request_rate is 0"):
        size_day(toy(), [1.0, 0.0], LENGTHS, BOUND, start_up_s=0.0)
    with pytest.raises(NothingMeetsError, match="1024 replicas; loosen the bounds"):
        size_day(toy(), [1.0], LENGTHS, [Target("ttft_s", 99, 0.005)], start_up_s=0.0)
