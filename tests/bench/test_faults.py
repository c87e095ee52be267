"""Every fault strikes exactly every fourth of 32 requests, and is counted as what it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shardwise.bench.client import run_load
from shardwise.bench.known_answer import FAULTS, Behaviour
from shardwise.bench.known_server import KnownServer
from shardwise.bench.load import Load
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Api, Target, parse_target
from shardwise.evidence.request import FAILURES, RequestRecord, count_failures, sample_failures

REQUESTS, OSL = 32, 6


def _load(target: Target, concurrency: int = 4, stall_timeout_s: float = 20.0) -> Load:
    body = target.request("one two three", OSL)
    return Load([body] * REQUESTS, [OSL] * REQUESTS, concurrency, stall_timeout_s=stall_timeout_s)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_fourth_request_is_counted_eight_times(fault: str, api: Api) -> None:
    # a stall must outlast the timeout, and nothing else may: 32 short requests take well under 2 s
    stall_timeout_s = 2.0 if fault == "stall" else 20.0
    concurrency = 8 if fault == "stall" else 4
    with known_server(0.005, 0.001, fault) as at:
        target = parse_target(at.url, api, "known")
        run = run_load(target, _load(target, concurrency, stall_timeout_s))
    assert len(run.records) == REQUESTS
    assert count_failures(run.records) == {fault: 8}
    assert sum(record.ok for record in run.records) == 24
    assert {sample["kind"] for sample in sample_failures(run.records)} == {fault}
    assert all(record.output_tokens == OSL for record in run.records if record.ok)


def test_no_fault_is_no_failure() -> None:
    with known_server(0.005, 0.001) as target:
        run = run_load(target, _load(target))
    assert count_failures(run.records) == {}
    assert [r.index for r in run.records] == list(range(REQUESTS))
    assert all(r.usage_reported and r.input_tokens == 3 for r in run.records)
    assert all(len(r.arrivals) == r.output_tokens == OSL for r in run.records)


class _ServerInThread:
    """The known server where the test can close and open its listener between two requests."""

    def __init__(self) -> None:
        self.server = KnownServer(Behaviour(0.001, 0.001, keep_alive=False))
        self.port = self.server.listen()
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def after(self, record: RequestRecord) -> None:
        """Every fourth request finds nobody listening; the others do."""
        if record.index % 4 == 2:
            self.server.stop_listening()
        elif record.index % 4 == 3:
            self.server.listen(self.port)


@pytest.fixture
def listener() -> Iterator[_ServerInThread]:
    server = _ServerInThread()
    yield server
    server.server.stop()
    server.thread.join(10)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_every_fourth_connection_refused_is_counted_eight_times(
    listener: _ServerInThread, api: Api
) -> None:
    target = parse_target(f"http://127.0.0.1:{listener.port}", api, "known")
    run = run_load(target, _load(target, concurrency=1), listener.after)
    assert count_failures(run.records) == {"refused": 8}
    assert [r.index for r in run.records if r.failure] == [3, 7, 11, 15, 19, 23, 27, 31]
    assert all("refused" in r.detail.lower() for r in run.records if r.failure)


def test_each_kind_is_explained_and_can_be_made() -> None:
    made = {*FAULTS, "refused"}
    assert made == set(FAILURES) - {"http_other"}
