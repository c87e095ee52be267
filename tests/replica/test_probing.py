"""What a replica is asked, and what counts as an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shardwise.replica.probing import (
    complete,
    healthy,
    in_flight,
    port_in_use,
    progress,
    request,
)

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_swapped{model_name="m"} 9.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+06
vllm:generation_tokens_total{engine="0",model_name="m"} 5000.0
"""


class Replica(ThreadingHTTPServer):
    """Answers as it is told, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str, bytes, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Replica

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Authorization")
        self.server.asked.append((self.command, self.path, body, key))
        status, answer = self.server.answers.get(self.path, (404, b"not found"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(("status", "good"), [(200, True), (503, False), (204, False)])
def test_a_replica_is_healthy_where_health_answers_200(
    replica: Replica, status: int, good: bool
) -> None:
    replica.answers["/health"] = (status, b"")
    assert healthy(replica.url) is good


def test_nothing_at_the_address_is_no_answer_and_no_exception(closed: str) -> None:
    assert request(closed, "/health") == (0, b"")
    assert not healthy(closed)
    assert in_flight(closed, "vllm") is None
    assert progress(closed) is None
    assert complete(closed, "m") == "/v1/completions answered 0: "


def test_a_completion_is_one_token_of_three_ids_with_the_key(replica: Replica) -> None:
    replica.answers["/v1/completions"] = (200, b'{"choices": [{"text": "a"}]}')
    assert complete(replica.url, "m", key="secret") == ""
    ((method, path, body, key),) = replica.asked
    assert (method, path, key) == ("POST", "/v1/completions", "Bearer secret")
    assert b'"prompt": [1, 2, 3], "max_tokens": 1' in body


def test_an_embedding_model_is_asked_for_an_embedding(replica: Replica) -> None:
    replica.answers["/v1/embeddings"] = (200, b'{"data": [{"embedding": [0.5]}]}')
    assert complete(replica.url, "m", task="embed") == ""
    assert replica.asked[0][2] == b'{"model": "m", "input": "1"}'


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, b'{"choices": []}'),  # the engine made nothing
        (200, b"{}"),
        (200, b"[]"),
        (200, b"\xff not json"),
        (500, b'{"choices": [{"text": "a"}]}'),
    ],
)
def test_an_answer_without_a_token_is_returned_with_its_status(
    replica: Replica, status: int, answer: bytes
) -> None:
    replica.answers["/v1/completions"] = (status, answer)
    said = complete(replica.url, "m")
    assert said == f"/v1/completions answered {status}: {answer.decode(errors='replace')}"


def test_a_long_answer_is_cut(replica: Replica) -> None:
    replica.answers["/v1/completions"] = (500, b"x" * 5000)
    assert complete(replica.url, "m").endswith(": " + "x" * 200)


def test_requests_in_flight_are_those_running_and_waiting_in_every_engine(
    replica: Replica,
) -> None:
    replica.answers["/metrics"] = (200, VLLM.encode())
    assert in_flight(replica.url, "vllm") == 3 + 2 + 4
    assert in_flight(replica.url, "sglang") is None  # these are not its metrics
    assert in_flight(replica.url, "trtllm") is None  # it has none that are known


def test_progress_adds_what_grows_while_the_engine_works(replica: Replica) -> None:
    replica.answers["/metrics"] = (200, VLLM.encode())
    assert progress(replica.url) == 1_205_000
    replica.answers["/metrics"] = (200, b"# nothing yet\n")
    assert progress(replica.url) is None
    replica.answers["/metrics"] = (503, VLLM.encode())
    assert progress(replica.url) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1.2.3", "-", "e"])
def test_a_sample_that_is_no_number_is_left_out(replica: Replica, value: str) -> None:
    text = f"vllm:num_requests_running 3\nvllm:num_requests_waiting {value}\n"
    replica.answers["/metrics"] = (200, text.encode())
    assert in_flight(replica.url, "vllm") == 3


def test_a_port_is_in_use_while_something_listens(replica: Replica, closed: str) -> None:
    assert port_in_use("127.0.0.1", replica.server_port)
    assert not port_in_use("127.0.0.1", int(closed.rpartition(":")[2]))
