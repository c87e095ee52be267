"""Processes that outlive the one that started them: found again, asked to stop, killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from shardwise.errors import InputError

#: The variable that marks every process started for a deployment or a sweep, so that all of them
#: are found again.
MARK: Final = "SHARDWISE_DEPLOYMENT"


class Process(msgspec.Struct, frozen=True):
    """A process by number and start time, so that a number used again is not mistaken for it."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < 1.0
            return same and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    deployment: str,
    cores: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output added to `log`, on `cores` if any.

    The child itself writes its number beside `log` before it becomes the program: whoever is killed
    between starting it and writing that down leaves a trace. The mark in the environment is not
    enough, since programs that give themselves a title (vllm-router, vLLM) write over it.
    InputError where the program cannot be started.
    """
    if shutil.which(argv[0]) is None:
        raise InputError(f"cannot start {argv[0]}: no such program")
    noted = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(pid_file(log)), *argv]
    before = os.sched_getaffinity(0)
    wanted = set(cores)
    with log.open("ab") as out:
        try:
            if wanted:
                os.sched_setaffinity(0, wanted)  # of this thread; the child inherits it
            return subprocess.Popen(
                noted,
                env={**os.environ, **env, MARK: deployment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"cannot start {argv[0]}: {error.strerror}") from None
        finally:
            if wanted:
                os.sched_setaffinity(0, before)


def pid_file(log: Path) -> Path:
    """Where the process that writes `log` has its number."""
    return log.with_suffix(".pid")


def recorded(logs: Iterable[Path]) -> list[Process]:
    """The processes that write these logs and are alive."""
    found = []
    for log in logs:
        file = pid_file(log)
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = Process.of(int(file.read_text(encoding="ascii")))
            # a number used again belongs to a process begun after the file was written
            if process.started <= file.stat().st_mtime + 1.0:
                found.append(process)
    return found


def marked(deployment: str) -> list[Process]:
    """Every process started for `deployment`, or by one that was."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == deployment and process.pid != os.getpid():
                found.append(Process(process.pid, process.create_time()))
    return found


def session(leader: Process) -> list[Process]:
    """The processes of `leader`'s session, alive or orphaned.

    An engine's ranks stay in it, also those that rewrite their title over the environment.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            same = os.getsid(process.pid) == leader.pid and process.pid != os.getpid()
            if same and process.create_time() >= leader.started - 1.0:
                found.append(Process(process.pid, process.create_time()))
    return found


def stop(leader: Process, grace_s: float) -> None:
    """SIGTERM to `leader`, SIGKILL to what is left of its session after `grace_s`."""
    _signal(leader, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while leader.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_all([leader, *session(leader)])


def kill_all(processes: Iterable[Process], wait_s: float = 5.0) -> None:
    """SIGKILL, and wait until they are gone."""
    left = [process for process in processes if process.alive]
    for process in left:
        _signal(process, signal.SIGKILL)
    deadline = time.monotonic() + wait_s
    while any(process.alive for process in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signal(process: Process, number: signal.Signals) -> None:
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def memory_bytes(leader: Process) -> int:
    """Resident memory of a session; pages shared by several processes count in each."""
    total = 0
    for process in session(leader):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(process.pid).memory_info().rss
    return total


def connections(port: int) -> int:
    """Open connections to a local port."""
    return sum(
        1
        for found in psutil.net_connections("tcp")
        if found.laddr and found.laddr.port == port and found.status == psutil.CONN_ESTABLISHED
    )


def drain_connections(port: int, timeout_s: float) -> None:
    """Wait until nobody is connected to a local port, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while connections(port) and time.monotonic() < deadline:
        time.sleep(0.3)
