"""What clients may send, and how much of it, to a real server process."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("uvicorn", reason="needs: pip install 'shardwise[engine]'")

from tests.engine.replica import Replica, start

from shardwise.engine import connections

SOME_TOKENS = {"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(llama: Path) -> Iterator[Replica]:
    """Room for 600 sequences of up to 6 tokens each, and 16 more that wait."""
    options = ["--max-num-seqs", "600", "--max-num-batched-tokens", "4096", "--max-queue", "16"]
    replica = start(llama, *options, "--kv-cache-tokens", "16384")
    yield replica
    replica.process.kill()
    replica.process.wait()


def at_once(replica: Replica, bodies: list[dict[str, Any]]) -> Counter[int]:
    """The statuses of requests that are all sent before the first is answered."""
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return Counter(pool.map(replica.status, bodies))


def test_a_burst_of_short_prompts_is_answered_whole(server: Replica) -> None:
    """200 at once filled a pipe that the event loop had made non-blocking; they hung for good."""
    for _ in range(2):
        assert at_once(server, [SOME_TOKENS] * 200) == {200: 200}
    assert server.get("/health")[0] == 200


def test_a_burst_of_long_prompts_is_answered_whole(server: Replica) -> None:
    """30 of 1,900 numbers did the same: their messages are larger than a pipe's buffer."""
    long = {"prompt": [1] * 250, "max_tokens": 4, "ignore_eos": True}
    assert at_once(server, [long] * 60) == {200: 60}


def test_replies_for_400_running_sequences_arrive_whole(server: Replica) -> None:
    """About 320 outputs of one step are over 16 KB, which was read in halves."""
    body = {"prompt": [1], "max_tokens": 30, "ignore_eos": True}
    assert at_once(server, [body] * 400) == {200: 400}
    assert server.process.poll() is None


def test_200_at_once_on_a_short_queue_are_answered_or_refused(llama: Path) -> None:
    replica = start(llama, "--max-num-seqs", "8", "--max-queue", "56")
    try:
        body = {"prompt": [1, 2], "max_tokens": 100, "ignore_eos": True}
        statuses = at_once(replica, [body] * 200)
        assert set(statuses) == {200, 429}
        assert statuses[200] >= 64
        assert replica.status(SOME_TOKENS) == 200
        assert replica.metric("shardwise_requests_in_flight") == 0
    finally:
        replica.process.kill()
        replica.process.wait()


def test_a_large_body_is_refused_before_it_is_read(server: Replica) -> None:
    limit = connections.body_limit(256)
    before = psutil.Process(server.process.pid).memory_info().rss
    body = b'{"prompt": "' + b"1 " * (25 << 20) + b'"}'
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    response = connection.getresponse()  # with not a byte of the body sent
    assert response.status == 413
    assert str(limit) in json.load(response)["error"]["message"]
    connection.send(body)  # what comes all the same is dropped
    after = psutil.Process(server.process.pid).memory_info().rss
    assert after - before < len(body) / 2
    connection.close()


def test_a_chunked_body_is_refused_at_the_limit(server: Replica) -> None:
    limit = connections.body_limit(256)

    def chunks() -> Iterator[bytes]:
        for _ in range(2 * limit // 65536):
            yield b" " * 65536

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/completions", chunks(), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_huge_prompt_does_not_hold_up_health(server: Replica) -> None:
    """As many ids as a body may have; a prompt of 10 million held every other request up."""
    body = b'{"prompt": [' + b"1," * (connections.body_limit(256) // 2 - 20) + b"1]}"
    answers = 0
    sent = threading.Thread(target=lambda: [server.status(body) for _ in range(8)])
    sent.start()
    while sent.is_alive():
        assert server.get("/health")[0] == 200
        answers += 1
    assert answers > 8  # 2 or 3 a second before, one after each prompt; now hundreds
    assert server.status(body) == 400


def test_requests_that_never_arrive_whole_are_closed(llama: Path) -> None:
    replica = start(llama, patch="connections.TimedProtocol.timeout_s = 1.0")
    halves = [
        b"",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ]
    try:
        held = [socket.create_connection(("127.0.0.1", replica.port)) for _ in halves]
        for connection, half in zip(held, halves, strict=True):
            connection.sendall(half)
        drip, ended = held[1], time.monotonic() + 10
        while time.monotonic() < ended:  # a byte now and then does not put the end off
            try:
                drip.sendall(b"X")
                time.sleep(0.2)
            except OSError:
                break
        for connection in (held[0], held[2]):
            connection.settimeout(10)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
            assert connection.recv(1000) == b""
        assert time.monotonic() < ended
        # an answer that takes longer than a request may is not cut
        stream = replica.open_stream(prompt=[1], max_tokens=250, ignore_eos=True)
        assert stream.read().count(b'"text"') == 250
    finally:
        replica.process.kill()
        replica.process.wait()


def test_models_are_listed_and_asked_for_by_name(server: Replica) -> None:
    (listed,) = json.loads(server.get("/v1/models")[1])["data"]
    status, body = server.get(f"/v1/models/{listed['id']}")
    assert (status, json.loads(body)) == (200, listed)
    status, body = server.get("/v1/models/org/other")
    assert status == 404
    assert listed["id"] in json.loads(body)["error"]["message"]
    assert server.status(SOME_TOKENS | {"model": listed["id"]}) == 200
    assert server.status(SOME_TOKENS | {"model": "other"}) == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        ("/v1/completions", b"{", 400),
        ("/v1/completions", b'{"prompt": [1], "stream": null, "max_tokens": 1}', 200),
        ("/v1/completions", b'{"prompt": [1], "max_tokens": 1, "top_k": 1' + b"0" * 30 + b"}", 400),
        ("/v1/completions", b'{"prompt": [1], "stop_token_ids": [1' + b"0" * 30 + b"]}", 200),
        ("/v1/completions", b'{"prompt": [1' + b"0" * 30 + b"]}", 400),
        ("/v1/completions", b'{"prompt": [-1]}', 400),
        ("/v1/completions", b'{"prompt": "' + b"9" * 5000 + b'"}', 400),
        ("/v1/chat/completions", b'{"messages": []}', 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user"}]}', 400),
        (
            "/v1/chat/completions",
            b'{"messages": [{"content": "1"}], "max_completion_tokens": 0}',
            400,
        ),
        ("/v1/nothing", b"{}", 404),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_an_odd_request_gets_its_status_and_the_engine_goes_on(
    server: Replica, path: str, body: bytes, status: int
) -> None:
    assert server.status(body, path) == status
    assert server.status(SOME_TOKENS) == 200
    assert not any("Traceback" in line for line in server.log)
