"""A server process on a port of its own, and what its clients do to it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN = (
    "import sys\n"
    "from shardwise.cli.serve import serve\n"
    "from shardwise.errors import ShardwiseError\n"
    "try:\n    serve.main(sys.argv[1:], standalone_mode=False)\n"
    "except ShardwiseError as e:\n    print(e, file=sys.stderr); sys.exit(e.exit_code)\n"
)
PATCHED = "from shardwise.engine import connections\n{}\n"
SMALL = ["--device", "cpu", "--threads-per-rank", "1", "--kv-cache-tokens", "4096"]


@dataclass
class Replica:
    """A server process on a port of its own."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    @property
    def rank_pids(self) -> list[int]:
        line = next(line for line in self.log if "serving" in line)
        return [int(pid) for pid in re.findall(r"\d+", line.rsplit("ranks", 1)[1])]

    def post(self, body: dict[str, Any], path: str = "/v1/completions") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def status(self, body: dict[str, Any] | bytes, path: str = "/v1/completions") -> int:
        """The status of the answer, whatever it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as e:
            with e:
                return e.code

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body; 0 where nobody answers."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=timeout_s) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read()
        except OSError:
            return 0, b""

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            for line in response.read().decode().splitlines():
                if line.startswith(name):
                    return float(line.rsplit(" ", 1)[1])
        return 0.0

    def open_stream(self, **body: Any) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"stream": True, **body}))
        response = connection.getresponse()
        assert response.status == 200
        response.connection = connection  # type: ignore[attr-defined]
        return response


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(model: Path, *options: str, patch: str = "") -> Replica:
    """A server of `model` that is ready; `patch` is a statement run in its process before."""
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PATCHED.format(patch or "pass") + RUN,
            str(model),
            "--port",
            str(port),
            *SMALL,
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    replica = Replica(process, port)

    ready = threading.Event()

    def follow() -> None:
        assert process.stderr
        for line in process.stderr:
            replica.log.append(line)
            if "serving" in line:
                ready.set()

    threading.Thread(target=follow, daemon=True).start()
    assert ready.wait(60), replica.log
    return replica


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False
