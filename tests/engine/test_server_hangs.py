"""A process that hangs instead of dying, and what else only shows as silence."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("uvicorn", reason="needs: pip install 'shardwise[engine]'")

from tests.engine.replica import Replica, gone, start

from shardwise.engine.options import EngineOptions
from shardwise.engine.service import EngineClient

STREAM: dict[str, Any] = {"prompt": [1, 2, 3], "max_tokens": 250, "ignore_eos": True}


def health_until(replica: Replica, status: int, within_s: float = 20.0) -> bytes:
    """The body of the first answer with `status`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found, body = replica.get("/health")
        if found == status:
            return body
        time.sleep(0.02)
    raise AssertionError(f"/health did not answer {status}: {replica.log}")


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_hangs_fails_health_then_takes_the_replica_down(
    llama: Path, which: int
) -> None:
    replica = start(llama, "--tensor-parallel-size", "2", "--step-timeout", "2")
    pids = replica.rank_pids
    stream = replica.open_stream(**STREAM)
    stream.readline()
    os.kill(pids[which], signal.SIGSTOP)
    try:
        why = json.loads(health_until(replica, 503))["error"]["message"]
        assert "no step ended for" in why
        with pytest.raises(http.client.IncompleteRead):  # the stream ends, and visibly
            stream.read()
        assert replica.process.wait(timeout=30) == 1
        assert gone(pids)  # also the one that is stopped
        assert any("replica down: the engine hangs" in line for line in replica.log)
    finally:
        replica.process.kill()
        replica.process.wait()


def test_a_rank_that_goes_on_in_time_is_forgiven(llama: Path) -> None:
    replica = start(llama, "--tensor-parallel-size", "2", "--step-timeout", "3")
    pids = replica.rank_pids
    try:
        stream = replica.open_stream(**STREAM)
        stream.readline()
        os.kill(pids[1], signal.SIGSTOP)
        health_until(replica, 503)
        os.kill(pids[1], signal.SIGCONT)
        health_until(replica, 200)
        assert stream.read().count(b'"text"') >= 249
        assert replica.process.poll() is None
    finally:
        replica.process.kill()
        replica.process.wait()


def test_an_idle_engine_does_not_hang_and_a_client_that_left_hides_no_hang(llama: Path) -> None:
    replica = start(llama, "--step-timeout", "2")
    try:
        assert replica.status({"prompt": [1], "max_tokens": 2}) == 200
        time.sleep(2.5)  # longer than a step may take, with nothing to do
        assert replica.get("/health")[0] == 200
        os.kill(replica.rank_pids[0], signal.SIGSTOP)
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps(STREAM))
        while not replica.metric("shardwise_requests_in_flight"):
            time.sleep(0.01)
        connection.close()
        assert replica.process.wait(timeout=30) == 1
    finally:
        replica.process.kill()
        replica.process.wait()


def test_an_engine_out_of_memory_takes_the_replica_down_and_says_so(llama: Path) -> None:
    replica = start(llama, "--max-num-batched-tokens", "4096", "--max-num-seqs", "600")
    try:
        engine = psutil.Process(replica.rank_pids[0])
        engine.rlimit(resource.RLIMIT_AS, (engine.memory_info().vms, -1))
        assert replica.status({"prompt": list(range(1, 120)) * 2, "max_tokens": 4}) == 503
        assert replica.process.wait(timeout=30) == 1
        # Python's own allocations fail as an exception, those of torch's threads as a signal
        assert any("replica down: the engine process died" in line for line in replica.log)
    finally:
        replica.process.kill()
        replica.process.wait()


@pytest.mark.parametrize("which", ["sender", "reader"])
def test_a_sender_or_reader_that_dies_takes_the_replica_down(llama: Path, which: str) -> None:
    async def scenario() -> tuple[str, bool]:
        told: asyncio.Queue[str] = asyncio.Queue()
        client = EngineClient(told.put_nowait)
        await client.start(llama, EngineOptions(kv_cache_tokens=1024, threads_per_rank=1))
        try:
            if which == "sender":
                client._outbox.put(("add", lambda: None))  # cannot be sent
            else:
                client._replies.close()
                client._outbox.put(("cancel", "nobody"))  # its reply wakes the reader
            why = await asyncio.wait_for(told.get(), 20)
            queue = client.submit("later", [1], None)  # type: ignore[arg-type]
            return why, isinstance(await queue.get(), Exception)
        finally:
            client.stop()

    why, refused = asyncio.run(scenario())
    assert "connection to the engine failed" in why
    assert refused
