"""The server as clients meet it: a real process, the OpenAI client, curl, signals."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.engine.replica import RUN, SMALL, Replica, gone, start

from shardwise.errors import InputError

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("uvicorn", reason="needs: pip install 'shardwise[engine]'")


@pytest.fixture(scope="module")
def server(llama: Path) -> Iterator[Replica]:
    replica = start(llama, "--tensor-parallel-size", "2")
    yield replica
    replica.process.kill()
    replica.process.wait()


def test_the_openai_client_gets_the_same_text_whole_and_streamed(server: Replica) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    model = client.models.list().data[0].id
    ask = {"model": model, "prompt": [1, 2, 3], "max_tokens": 12, "temperature": 0}
    ask["extra_body"] = {"ignore_eos": True}
    whole = client.completions.create(**ask)
    assert whole.usage.completion_tokens == 12
    assert whole.usage.prompt_tokens == 3
    events = list(
        client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(e.choices[0].text for e in events if e.choices) == whole.choices[0].text
    assert events[-1].usage.total_tokens == 15
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] == "length"
    chat = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "1 2 3"}],
        max_tokens=12,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert chat.choices[0].message.content == whole.choices[0].text


def test_curl_streams_events_that_end_with_done(server: Replica) -> None:
    body = json.dumps({"prompt": "1 2 3", "max_tokens": 5, "ignore_eos": True, "stream": True})
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    got = subprocess.run(
        ["curl", "-sN", url, "-d", body], capture_output=True, text=True, check=True
    ).stdout
    events = [line for line in got.splitlines() if line]
    assert all(line.startswith("data: ") for line in events)
    assert len(events) == 6
    assert events[-1] == "data: [DONE]"


def test_a_stop_string_cuts_the_text(server: Replica) -> None:
    ask = {"prompt": [1, 2, 3], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    text = server.post(ask)["choices"][0]["text"]
    stop = text.split()[3]
    cut = server.post(ask | {"stop": [f" {stop} "]})["choices"][0]
    assert cut["text"] == text[: text.index(f" {stop} ")]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": [999]}, "outside the vocabulary"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "hello"}, "token ids"),
        ({"prompt": [1], "max_tokens": 100000}, "together at most 256"),
        ({"prompt": [1], "max_tokens": "x"}, "$.max_tokens"),
        ({"prompt": [1], "temperature": -1}, "temperature is -1"),
        ({"prompt": [1], "n": 2}, "n is 2"),
        ({"prompt": [1], "seed": 2**63}, "seed is"),
        ({}, "prompt"),
    ],
)
def test_a_bad_request_gets_400_and_what_is_allowed(
    server: Replica, body: dict[str, Any], says: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.post(body)
    assert caught.value.code == 400
    assert says in json.load(caught.value)["error"]["message"]


def test_values_at_the_edge_do_not_bring_the_engine_down(server: Replica) -> None:
    ask = {"prompt": [1, 2], "max_tokens": 4, "ignore_eos": True}
    for odd in ({"temperature": 1e-320}, {"top_p": 1e-320}, {"seed": -(2**62)}, {"top_k": 10**9}):
        assert server.post(ask | odd)["usage"]["completion_tokens"] == 4


def test_streams_cancelled_at_random_leak_no_kv_block_and_lose_no_request(
    server: Replica,
) -> None:
    draw = random.Random(0)
    whole: list[int] = []

    def client(quits: bool) -> None:
        stream = server.open_stream(
            prompt=[draw.randrange(131) for _ in range(20)], max_tokens=60, ignore_eos=True
        )
        if quits:
            stream.read(draw.randrange(1, 2000))
            stream.connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            stream.close()
        else:
            whole.append(stream.read().count(b'"text"'))

    threads = [threading.Thread(target=client, args=(i % 3 == 0,)) for i in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole == [60] * 32
    deadline = time.monotonic() + 5
    while server.metric("shardwise_kv_blocks_used") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric("shardwise_kv_blocks_used") == 0
    assert server.metric("shardwise_requests_in_flight") == 0
    assert server.metric('shardwise_requests_total{outcome="cancelled"}') > 0


def test_past_the_queue_requests_get_429(llama: Path) -> None:
    replica = start(llama, "--max-num-seqs", "1", "--max-queue", "1")
    try:
        ask = {"prompt": [1, 2], "max_tokens": 250, "ignore_eos": True}

        def hold() -> None:
            with suppress(http.client.RemoteDisconnected):  # killed below
                replica.open_stream(**ask)

        held = [threading.Thread(target=hold) for _ in range(2)]
        for thread in held:
            thread.start()
        deadline = time.monotonic() + 5
        while replica.metric("shardwise_requests_in_flight") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(urllib.error.HTTPError) as caught:
            replica.post({"prompt": [1], "max_tokens": 1})
        assert caught.value.code == 429
        assert caught.value.headers["Retry-After"] == "1"
    finally:
        replica.process.kill()


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_dies_takes_the_replica_down(llama: Path, which: int) -> None:
    replica = start(llama, "--tensor-parallel-size", "2")
    pids = replica.rank_pids
    stream = replica.open_stream(prompt=[1, 2, 3], max_tokens=250, ignore_eos=True)
    stream.readline()
    os.kill(pids[which], signal.SIGKILL)
    with pytest.raises(http.client.IncompleteRead):  # the client sees that it is not an answer
        stream.read()
    assert replica.process.wait(timeout=20) == 1
    assert gone(pids)
    assert any("replica down" in line for line in replica.log)
    assert not any("Traceback" in line for line in replica.log)


def test_sigterm_lets_running_requests_end_then_exits_0(llama: Path) -> None:
    replica = start(llama, "--tensor-parallel-size", "2")
    pids = replica.rank_pids
    stream = replica.open_stream(prompt=[1, 2, 3], max_tokens=200, ignore_eos=True)
    stream.readline()
    replica.process.send_signal(signal.SIGTERM)
    assert stream.read().count(b'"text"') in (199, 200)
    assert replica.process.wait(timeout=20) == 0
    assert gone(pids)


def test_sigterm_under_load_answers_what_has_begun_and_refuses_the_rest(llama: Path) -> None:
    replica = start(llama, "--max-num-seqs", "32")
    pids = replica.rank_pids
    streams = [
        replica.open_stream(prompt=[1, 2, 3], max_tokens=120, ignore_eos=True) for _ in range(32)
    ]
    replica.process.send_signal(signal.SIGTERM)
    assert [stream.read().count(b'"text"') for stream in streams] == [120] * 32
    assert replica.get("/health")[0] == 0
    assert replica.process.wait(timeout=20) == 0
    assert gone(pids)


def test_a_killed_server_leaves_no_rank_behind(llama: Path) -> None:
    replica = start(llama, "--tensor-parallel-size", "2")
    pids = replica.rank_pids
    replica.process.kill()
    replica.process.wait()
    assert gone(pids)


def left_of(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tensor-parallel-size", "3"], "tensor_parallel_size is 3"),
        (["--tensor-parallel-size", "4", "--kv-cache-tokens", "99999999999"], "GB are free"),
        pytest.param(
            ["--tensor-parallel-size", "2", "--device", "cuda"],
            "GPUs are visible",
            marks=pytest.mark.skipif(torch.cuda.device_count() > 1, reason="has the GPUs"),
        ),
        (["truncated"], "truncated/model.safetensors"),
        (["absent"], "absent/model.safetensors"),
    ],
)
def test_what_cannot_be_served_is_one_line_exit_2_and_no_stray_process(
    llama: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    model = llama
    if options[0] in ("truncated", "absent"):
        model, options = tmp_path / options[0], ["--tensor-parallel-size", "2"]
        shutil.copytree(llama, model)
        weights = model / "model.safetensors"
        whole = weights.read_bytes()
        weights.unlink()
        if model.name == "truncated":
            weights.write_bytes(whole[: len(whole) // 2])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(model), "--port", "0", *SMALL, *options],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert says in said
    assert len(said.strip().splitlines()) == 1
    # the interpreter's own helpers may take a moment
    deadline = time.monotonic() + 2
    while left_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left_of(process.pid) == []


@pytest.mark.parametrize("host", ["\x80", ".a.", "256.1.1.1", "a" * 64])
def test_a_host_that_cannot_be_listened_on_is_one_clear_error(host: str) -> None:
    serving = pytest.importorskip("shardwise.engine.server")
    with pytest.raises(InputError, match="cannot be used"):
        serving.listen(host, 0)


def test_a_port_in_use_is_one_line_and_exit_2(llama: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        got = subprocess.run(
            [sys.executable, "-c", RUN, str(llama), "--port", port, *SMALL],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert got.returncode == 2
    assert got.stderr.strip() == f"port {port} on 127.0.0.1 is in use; choose another --port"
