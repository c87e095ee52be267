"""A run that the client could not keep up with is told from one that it could."""

from __future__ import annotations

import math
import time
from array import array

import pytest

from shardwise.bench.client import run_load
from shardwise.bench.load import Load, Run
from shardwise.bench.selfcheck import ClientCheck, keeping_up
from shardwise.bench.selftest import known_server
from shardwise.evidence.request import RequestRecord


def _records(number: int, concurrency: int, gap_s: float = 0.0, late_s: float = 0.0) -> Run:
    """Slots of requests of 1 s with TTFT 100 ms, each `gap_s` after the one before."""
    records = []
    for index in range(number):
        sent_s = (index // concurrency) * (1.0 + gap_s)
        arrivals = array("d", [sent_s + 0.1, sent_s + 1.0])
        records.append(
            RequestRecord(
                index, sent_s - late_s, 2, sent_s, sent_s + 1.0, sent_s + 1.0, arrivals, 1, 2, True
            )
        )
    return Run(records, 0.0, max(r.done_s for r in records), 0.5, array("d", [1e-4] * 100))


def _check(run: Run, concurrency: int = 4, due_s: list[float] | None = None) -> ClientCheck:
    number = len(run.records)
    return keeping_up(run, Load([b""] * number, [2] * number, concurrency, due_s))


def test_a_client_that_keeps_up_is_not_bound() -> None:
    check = _check(_records(20, 4))
    assert not check.bound
    assert check.concurrency_achieved == pytest.approx(4.0)
    assert check.lag_mean_s == pytest.approx(1e-4)
    assert check.lag_n == 100
    assert math.isnan(check.send_delay_mean_s)


def test_lag_beside_the_ttft_binds() -> None:
    run = _records(20, 4)
    run.lags_s = array("d", [0.003] * 100)  # 3 % of a TTFT of 100 ms; allowed 2 %
    assert _check(run).reasons == ("receive lag of 3.00 ms, above 2% of TTFT 100.0 ms",)
    run.lags_s = array("d", [0.0] * 97 + [0.05] * 3)  # mean 1.5 ms, p99 50 ms
    assert _check(run).reasons == ("p99 receive lag of 50.00 ms, above 20% of TTFT 100.0 ms",)


def test_a_full_core_binds() -> None:
    run = _records(20, 4)
    run.cpu_share = 0.97
    assert _check(run).reasons == ("client used 97% of a core, above 85%",)


def test_slots_that_idle_between_requests_bind() -> None:
    # 100 ms of idling after each second: 4 * 1.0/1.1 = 3.64 in flight of 4
    check = _check(_records(40, 4, gap_s=0.1))
    assert check.concurrency_achieved == pytest.approx(4 / 1.1, rel=0.03)
    assert "requests in flight of 4 asked" in check.reasons[0]


def test_failures_are_not_held_against_the_clients_concurrency() -> None:
    run = _records(40, 4, gap_s=0.1)
    run.records[0].failure = "refused"
    assert math.isnan(_check(run).concurrency_achieved)
    assert not _check(run).bound


def test_requests_sent_late_bind_in_an_open_loop() -> None:
    run = _records(8, 4, late_s=0.05)  # TTFT from the due time: 150 ms; 2 % of it is 3 ms
    due_s = [record.origin_s for record in run.records]
    assert _check(run, due_s=due_s).reasons == (
        "requests sent late by 50.00 ms, above 2% of TTFT 150.0 ms",
    )
    assert math.isnan(_check(run, due_s=due_s).concurrency_achieved)


def test_a_run_too_short_to_look_at_is_not_vouched_for() -> None:
    run = _records(8, 4)
    run.lags_s = array("d")
    assert "too short" in _check(run).reasons[0]


def test_a_process_that_died_binds() -> None:
    run = _records(8, 4)
    run.problems = ["load process 1 died"]
    assert _check(run).reasons == ("lost: load process 1 died",)


def test_a_client_that_is_held_up_finds_itself_bound() -> None:
    # every answer is followed by 40 ms in which nothing is read: no server did that
    with known_server(0.02, 0.005) as target:
        load = Load([target.request("one", 8)] * 24, [8] * 24, 4)
        run = run_load(target, load, lambda _: time.sleep(0.04))
    assert all(record.ok for record in run.records)
    check = keeping_up(run, load)
    assert check.bound
    assert any("receive lag" in reason for reason in check.reasons)
