"""Processes are found by session, mark and file, asked to stop, and killed where they do not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardwise.replica import processes
from shardwise.replica.processes import Process

#: A shell that starts a child in its session; `trap` makes it deaf to SIGTERM.
FAMILY = "sleep 60 & echo started; wait"
DEAF = "trap '' TERM; echo started; while :; do sleep 0.1; done"


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return true()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    begun: list[tuple[subprocess.Popen[bytes], Process]] = []

    def begin(script: str, deployment: str = "a-test") -> Process:
        log = tmp_path / f"{len(begun)}.log"
        child = processes.spawn(["/bin/sh", "-c", script], {}, log, deployment)
        begun.append((child, Process.of(child.pid)))
        assert until(lambda: b"started" in log.read_bytes())
        return begun[-1][1]

    yield begin
    for child, process in begun:
        processes.kill_all([process, *processes.session(process)])
        child.wait(10)


def test_a_family_is_a_session_and_ends_with_its_leader(start: Callable[[str], Process]) -> None:
    leader = start(FAMILY)
    family = processes.session(leader)
    assert leader in family
    assert len(family) == 2
    processes.stop(leader, grace_s=5.0)
    assert until(lambda: not any(member.alive for member in family))


def test_who_does_not_hear_is_killed_after_the_grace(start: Callable[[str], Process]) -> None:
    leader = start(DEAF)
    processes.tell(leader, signal.SIGTERM)
    time.sleep(0.2)
    assert leader.alive
    begun = time.monotonic()
    processes.stop(leader, grace_s=0.3)
    assert until(lambda: not leader.alive)
    assert time.monotonic() - begun >= 0.3


def test_a_process_is_found_by_the_mark_of_its_deployment_and_by_its_log(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    mine, other = start(FAMILY, "a-test-of-mine"), start(FAMILY, "another-test")
    found = processes.marked("a-test-of-mine")
    assert mine in found
    assert other not in found
    logs = [tmp_path / "0.log", tmp_path / "1.log", tmp_path / "never.log"]
    assert processes.recorded(logs) == [mine, other]
    processes.kill_all([mine, *processes.session(mine)])
    assert until(lambda: processes.recorded(logs) == [other])


def test_a_damaged_note_is_no_process(tmp_path: Path) -> None:
    for number, text in enumerate(("", "12", "12 (sh) S", "x (sh) S " + "0 " * 40)):
        (tmp_path / f"{number}.pid").write_text(text)
    assert processes.recorded(tmp_path / f"{number}.log" for number in range(4)) == []


def test_nobody_is_told_anything_who_is_gone(start: Callable[[str], Process]) -> None:
    leader = start(FAMILY)
    gone = Process(leader.pid, leader.started - 1000.0)  # the number, an earlier time
    assert not gone.alive
    processes.tell(gone, signal.SIGKILL)
    processes.kill_all([gone])
    assert leader.alive


def test_memory_of_a_session_is_that_of_all_its_processes(start: Callable[[str], Process]) -> None:
    assert processes.memory_bytes(start(FAMILY)) > 0
    assert processes.memory_bytes(Process(os.getpid(), 1e12)) == 0  # a session of later ones


def test_open_connections_to_a_port_are_counted_and_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processes.connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert until(lambda: processes.connections(port) >= 1)
            begun = time.monotonic()
            processes.drain_connections(port, 0.5)
            assert time.monotonic() - begun >= 0.5
            accepted.close()
    processes.drain_connections(port, 5.0)
    assert processes.connections(port) == 0
