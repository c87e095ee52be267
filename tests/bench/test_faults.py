"""Every fault strikes exactly every fourth of 32 requests, and is counted as what it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from shardwise.bench.client import Load, run_load
from shardwise.bench.known_server import FAULTS, Behaviour, KnownServer
from shardwise.evidence.request import FAILURES, RequestRecord, count_failures, sample_failures
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Api, Target, parse_target

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
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = KnownServer(Behaviour(0.001, 0.001, keep_alive=False))
        self.port = self.listen(0)

    def listen(self, port: int) -> int:
        return asyncio.run_coroutine_threadsafe(self.server.listen(port), self.loop).result(10)

    def close(self) -> None:
        async def stop() -> None:
            self.server.stop_listening()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(10)


@pytest.fixture
def listener() -> Iterator[_ServerInThread]:
    server = _ServerInThread()
    yield server
    server.close()
    server.loop.call_soon_threadsafe(server.loop.stop)
    server.thread.join(10)
    server.loop.close()


def test_every_fourth_connection_refused_is_counted_eight_times(
    listener: _ServerInThread,
) -> None:
    target = parse_target(f"http://127.0.0.1:{listener.port}", model="known")

    def open_and_shut(record: RequestRecord) -> None:
        if record.index % 4 == 2:
            listener.close()
        elif record.index % 4 == 3:
            listener.listen(listener.port)

    run = run_load(target, _load(target, concurrency=1), open_and_shut)
    assert count_failures(run.records) == {"refused": 8}
    assert [r.index for r in run.records if r.failure] == [3, 7, 11, 15, 19, 23, 27, 31]


def test_each_kind_is_explained_and_can_be_made() -> None:
    made = {*FAULTS, "refused"}
    assert made == set(FAILURES) - {"http_other"}
