"""Long-lived child processes: find, stop and kill them."""

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

#: Environment variable that marks every process started for a deployment or a sweep, so that all
#: of them can be found.
MARK: Final = "SHARDWISE_DEPLOYMENT"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Process(msgspec.Struct, frozen=True):
    """A process identified by pid and start time, since pids are reused.

    `started` is in seconds since boot, as Linux reports it, because the wall clock may jump.
    """

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the running process with this pid. Raises OSError if there is none."""
        return _read_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))

    @property
    def alive(self) -> bool:
        """Return whether the same process still runs; its pid may have been reused."""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return _read_stat(text) == self and _fields(text)[0] != "Z"


def _fields(stat: str) -> list[str]:
    """Return the fields after the program's name, which may contain spaces and brackets."""
    return stat.rpartition(")")[2].split()


def _read_stat(stat: str) -> Process:
    """Parse a line of /proc/PID/stat (proc(5)): field 1 is the pid, field 22 the start time."""
    return Process(int(stat.split(maxsplit=1)[0]), int(_fields(stat)[19]) / _TICKS_PER_S)


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    deployment: str,
    cores: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a new session on `cores` (if given), and append its output to `log`.

    Before it becomes the program, the child writes its /proc/PID/stat to a file next to `log`. So
    the process can be found even if this one is killed right after starting it. The mark in the
    environment is not sufficient, because programs that set a process title (vllm-router, vLLM)
    overwrite it. If the disk is full, the program starts without that file.

    Raises InputError if the program cannot be started.
    """
    if shutil.which(argv[0]) is None:
        raise InputError(f"cannot start {argv[0]}: no such program")
    note = '{ read -r stat < /proc/$$/stat; echo "$stat" > "$0"; } 2>/dev/null; exec "$@"'
    noted = ["/bin/sh", "-c", note, str(pid_file(log)), *argv]
    before = os.sched_getaffinity(0)
    wanted = set(cores)
    try:
        out = log.open("ab")
    except OSError as error:
        raise InputError(f"cannot start {argv[0]}: {log}: {error.strerror}") from None
    with out:
        try:
            if wanted:
                os.sched_setaffinity(0, wanted)  # affinity of this thread, which the child inherits
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
    """Return the file with the /proc/PID/stat line of the process that writes `log`."""
    return log.with_suffix(".pid")


def recorded(logs: Iterable[Path]) -> list[Process]:
    """Return the running processes that write these logs."""
    found = []
    for log in logs:
        with contextlib.suppress(OSError, ValueError, IndexError):
            process = _read_stat(pid_file(log).read_text(encoding="utf-8", errors="replace"))
            if process.alive:
                found.append(process)
    return found


def marked(deployment: str) -> list[Process]:
    """Return every process started for `deployment`, directly or indirectly."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == deployment and process.pid != os.getpid():
                found.append(Process.of(process.pid))
    return found


def session(leader: Process) -> list[Process]:
    """Return the processes of `leader`'s session, including orphans.

    An engine's ranks stay in the session, even if their process title overwrites the environment.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            same = os.getsid(process.pid) == leader.pid and process.pid != os.getpid()
            if same and (member := Process.of(process.pid)).started >= leader.started:
                found.append(member)
    return found


def stop(leader: Process, grace_s: float) -> None:
    """Send SIGTERM to `leader`, and SIGKILL to the rest of its session after `grace_s`."""
    tell(leader, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while leader.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_all([leader, *session(leader)])


def kill_all(processes: Iterable[Process], wait_s: float = 5.0) -> None:
    """Send SIGKILL and wait for the processes to exit."""
    left = [process for process in processes if process.alive]
    for process in left:
        tell(process, signal.SIGKILL)
    deadline = time.monotonic() + wait_s
    while any(process.alive for process in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def tell(process: Process, number: signal.Signals) -> None:
    """Send a signal; no-op if the process has exited."""
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def memory_bytes(leader: Process) -> int:
    """Return the resident memory of a session; shared pages count once per process."""
    total = 0
    for process in session(leader):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(process.pid).memory_info().rss
    return total


def connections(port: int) -> int:
    """Return the open connections to a local port."""
    return sum(
        1
        for found in psutil.net_connections("tcp")
        if found.laddr and found.laddr.port == port and found.status == psutil.CONN_ESTABLISHED
    )


def drain_connections(port: int, timeout_s: float) -> None:
    """Wait until a local port has no connections, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while connections(port) and time.monotonic() < deadline:
        time.sleep(0.3)
