"""The client sends what it was asked to, when it was asked to, and keeps what it has."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardwise.bench.arrivals import constant
from shardwise.bench.client import run_load
from shardwise.bench.http import Answer, require_answer, served_engine, served_model
from shardwise.bench.load import Load, Run
from shardwise.bench.priority import ahead
from shardwise.bench.selftest import known_server
from shardwise.bench.shards import processes_for, run_sharded
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError
from shardwise.evidence.request import check_tokens, count_failures


def _load(target: Target, requests: int, concurrency: int, osl: int = 4) -> Load:
    return Load([target.request("one two", osl)] * requests, [osl] * requests, concurrency)


def _most_in_flight(run: Run) -> int:
    changes = [(r.sent_s, 1) for r in run.records] + [(r.done_s, -1) for r in run.records]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def test_a_closed_loop_keeps_its_concurrency_in_flight() -> None:
    with known_server(0.02, 0.005) as target:
        run = run_load(target, _load(target, 20, 5))
    assert _most_in_flight(run) == 5
    assert [r.index for r in run.records] == list(range(20))
    assert all(r.origin_s == r.sent_s for r in run.records)
    assert check_tokens(run.records).agrees
    assert check_tokens(run.records).tokens == 80


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="scheduling is Linux's")
def test_a_run_is_ahead_of_others_where_permitted_and_gives_that_back() -> None:
    with ahead() as permitted:
        pass
    during: list[int] = []
    with known_server(0.01, 0.001) as target:
        run_load(target, _load(target, 2, 1), lambda _: during.append(os.sched_getscheduler(0)))
    expected = os.SCHED_RR | os.SCHED_RESET_ON_FORK if permitted else os.SCHED_OTHER
    assert during == [expected] * 2
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_ramp_spreads_the_first_requests_of_a_closed_loop() -> None:
    with known_server(0.2, 0.001) as target:
        load = _load(target, 4, 4)
        run = run_load(target, Load(load.requests, load.asked, 4, ramp_s=0.2))
    # four slots over 0.2 s start 50 ms apart; timers round to 1 ms
    sent = [r.sent_s - run.started_s for r in run.records]
    assert all(late >= 0.05 * i - 0.002 for i, late in enumerate(sent))


def test_an_open_loop_counts_from_the_scheduled_time() -> None:
    with known_server(0.02, 0.001) as target:
        load = _load(target, 10, 10)
        due_s = constant(100.0, 10).due_s
        run = run_load(target, Load(load.requests, load.asked, 10, due_s))
    assert [round(r.origin_s - run.started_s, 6) for r in run.records] == [
        round(i / 100, 6) for i in range(10)
    ]
    assert all(r.sent_s >= r.origin_s for r in run.records)
    assert all(r.ttft_s >= 0.02 for r in run.records)


def test_a_pause_of_the_client_shows_in_the_latency_of_an_open_loop() -> None:
    # ten requests due 10 ms apart; the client itself is held up for 300 ms after the first answer
    held: list[bool] = []

    def hold(_: object) -> None:
        if not held:
            held.append(True)
            time.sleep(0.3)

    with known_server(0.005, 0.001) as target:
        load = _load(target, 10, 10)
        run = run_load(target, Load(load.requests, load.asked, 10, constant(100.0, 10).due_s), hold)
    assert max(r.ttft_s for r in run.records) > 0.2
    assert max(r.sent_s - r.origin_s for r in run.records) > 0.2
    assert max(run.lags_s) > 0.2


def test_no_request_is_sent_after_the_duration() -> None:
    with known_server(0.02, 0.001) as target:
        load = _load(target, 1000, 2)
        run = run_load(target, Load(load.requests, load.asked, 2, duration_s=0.3))
        due_s = constant(100.0, 1000).due_s
        opened = run_load(target, Load(load.requests, load.asked, 2, due_s, duration_s=0.1))
    assert 2 <= len(run.records) < 40
    assert all(r.ok for r in run.records)
    assert len(opened.records) == 11  # at 0, 10 … 100 ms


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has(processes: int, number: signal.Signals) -> None:
    told: list[int] = []

    def interrupt(ended: int) -> None:
        if ended >= 8 and not told:
            told.append(ended)
            os.kill(os.getpid(), number)

    with known_server(0.02, 0.01) as target:
        run = run_sharded(target, _load(target, 400, 4, osl=20), interrupt, processes)
    assert run.interrupted
    assert sum(r.ok for r in run.records) >= 8
    assert count_failures(run.records) == {}
    # four streams end their waves together: one may be between two requests as the signal comes
    assert 1 <= sum(r.cancelled for r in run.records) <= 4
    assert all(r.ok != r.cancelled for r in run.records)
    assert len(run.records) < 400


def test_an_interrupted_open_loop_keeps_what_it_has() -> None:
    told: list[int] = []

    def interrupt(_: object) -> None:
        told.append(1)
        if len(told) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with known_server(0.02, 0.01) as target:
        load = _load(target, 500, 8, osl=10)
        due_s = constant(50.0, 500).due_s
        run = run_load(target, Load(load.requests, load.asked, 8, due_s), interrupt)
    assert run.interrupted
    assert sum(r.ok for r in run.records) >= 5
    # 50/s of 0.11 s each: five or six in flight when it ended, and none failed
    assert 1 <= sum(r.cancelled for r in run.records) <= 50
    assert all(r.ok != r.cancelled for r in run.records)


def test_an_open_loop_over_two_processes_keeps_every_due_time() -> None:
    with known_server(0.01, 0.001) as target:
        load = _load(target, 21, 6)
        due_s = constant(100.0, 21).due_s
        run = run_sharded(target, Load(load.requests, load.asked, 6, due_s), processes=2)
    due = [r.origin_s - run.started_s for r in run.records]
    assert due == pytest.approx(due_s, abs=1e-6)  # both count from the same moment
    assert all(r.ok for r in run.records)


def test_interrupted_before_it_began_a_run_is_empty() -> None:
    with known_server(0.02, 0.01) as target:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        run = run_sharded(target, _load(target, 4000, 4, osl=20), processes=2)
    assert run.interrupted
    assert run.problems == []
    assert not any(r.failure for r in run.records)


def test_two_processes_send_every_request_once_and_start_together() -> None:
    ended: list[int] = []
    with known_server(0.02, 0.01) as target:
        # lengths differ, so that a record under another's index would show
        asked = [4 + i % 7 for i in range(60)]
        load = Load([target.request("one", osl) for osl in asked], asked, 5)
        run = run_sharded(target, load, ended.append, processes=2)
    assert [r.index for r in run.records] == list(range(60))
    assert [r.output_tokens for r in run.records] == asked
    assert run.processes == 2
    assert run.problems == []
    assert _most_in_flight(run) == 5
    first = {i % 2: r.sent_s for i, r in reversed(list(enumerate(run.records)))}
    assert abs(first[0] - first[1]) < 0.25
    assert ended == sorted(ended)
    assert run.cpu_s > 0


def test_a_load_process_that_dies_loses_its_own_records_only() -> None:
    with known_server(0.02, 0.01) as target:
        load = _load(target, 40, 2, osl=10)

        def kill_one(ended: int) -> None:
            if ended and not killed:
                killed.append(_children()[0])
                os.kill(killed[0], signal.SIGKILL)

        killed: list[int] = []
        run = run_sharded(target, load, kill_one, processes=2)
    assert killed
    assert len(run.problems) == 1
    assert "died (exit code -9)" in run.problems[0]
    assert len(run.records) == 20


def _children() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [p for p in map(int, tasks) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_processes_grow_with_concurrency_but_leave_a_core() -> None:
    assert processes_for(1) == processes_for(512) == 1
    cores = len(os.sched_getaffinity(0))
    assert processes_for(100_000) == max(1, cores - 1)


@contextmanager
def _tls_before(target: Target, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS and passes on to `target`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(copy(reader, far[1]), copy(far[0], writer), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(passed, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_is_checked_against_the_certificates_given(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    with known_server(0.01, 0.001) as plain, _tls_before(plain, certificate, key) as port:
        url = f"https://127.0.0.1:{port}"
        trusted = parse_target(url, model="known", ca_file=str(certificate))
        assert all(r.ok for r in run_load(trusted, _load(trusted, 4, 2)).records)
        assert served_model(trusted) == "known"
        stranger = parse_target(url, model="known")
        records = run_load(stranger, _load(stranger, 2, 1)).records
        with pytest.raises(InputError, match=r"not trusted.*--ca-file"):
            require_answer(stranger)
        with pytest.raises(InputError, match="is it an http:// server"):
            require_answer(parse_target(plain.url.replace("http:", "https:")))
    assert count_failures(records) == {"refused": 2}
    assert "certificate" in records[0].detail
    lost = parse_target(url, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match=r"none\.pem"):
        run_load(lost, _load(lost, 1, 1))


@pytest.mark.parametrize(
    ("owner", "engine"),
    [("vllm", "vllm"), ("sglang", "sglang"), ("shardwise", "builtin"), ("me", "unknown")],
)
def test_the_engine_is_what_the_endpoint_says(
    owner: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.dumps({"data": [{"id": "m", "owned_by": owner}]}).encode()
    monkeypatch.setattr("shardwise.bench.http.ask", lambda *_: Answer(200, listed))
    assert served_engine(parse_target("http://127.0.0.1:9")) == engine


def test_nobody_there_is_refused_and_not_a_crash() -> None:
    target = parse_target("http://127.0.0.1:9", model="x")
    run = run_load(target, _load(target, 3, 2))
    assert count_failures(run.records) == {"refused": 3}


def test_more_streams_than_the_soft_limit_of_open_files_are_no_matter() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with known_server(0.01, 0.001) as target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
            run = run_load(target, _load(target, 150, 150))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(r.ok for r in run.records)


def test_more_streams_than_the_hard_limit_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    target = parse_target("http://127.0.0.1:9")
    with pytest.raises(InputError, match="concurrency 500 needs 564 open files; allowed here: 256"):
        run_load(target, _load(target, 500, 500))


def test_a_load_runs_outside_the_main_thread_too() -> None:
    runs: list[Run] = []
    with known_server(0.01, 0.001) as target:
        thread = threading.Thread(
            target=lambda: runs.extend(
                run_sharded(target, _load(target, 6, 2), processes=n) for n in (1, 2)
            )
        )
        thread.start()
        thread.join(60)
    assert [sum(r.ok for r in run.records) for run in runs] == [6, 6]


def test_a_load_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Load([], [], 1)
    with pytest.raises(InputError, match="at least 1"):
        Load([b""], [1], 0)
    with pytest.raises(InputError, match="above 0"):
        Load([b""], [1], 1, stall_timeout_s=0)
    with pytest.raises(InputError, match="above 0"):
        Load([b""], [1], 1, duration_s=float("nan"))


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://x", "http://", "http://a:99999", "http://a b", "http://.a."),
        f"http://{'a' * 64}.com",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        parse_target(url)


def test_a_url_may_end_in_v1_and_hold_a_path() -> None:
    target = parse_target("https://host/serve/v1/", "chat", "m", "key")
    assert (target.host, target.port, target.path) == ("host", 443, "/serve")
    request = target.request("hi", 3)
    assert request.startswith(b"POST /serve/v1/chat/completions HTTP/1.1\r\nHost: host:443\r\n")
    assert b"Authorization: Bearer key\r\n" in request
    assert b"Host: [::1]:8000\r\n" in parse_target("http://[::1]:8000").request("hi", 3)
