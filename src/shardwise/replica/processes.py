"""Processes that outlive the one that started them: found again, asked to stop, killed."""

from __future__ import annotations

import contextlib
import os
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

    InputError where the program cannot be started.
    """
    before = os.sched_getaffinity(0)
    wanted = set(cores)
    with log.open("ab") as out:
        try:
            if wanted:
                os.sched_setaffinity(0, wanted)  # of this thread; the child inherits it
            return subprocess.Popen(
                list(argv),
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
