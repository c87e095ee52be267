"""A process that hides its environment is found and stopped all the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from shardwise.errors import InputError
from shardwise.replica import processes, running


def test_a_process_that_hides_its_mark_is_found_by_the_number_it_wrote(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    # `env -i` empties the environment, as a program does that writes a title over it
    child = processes.spawn(["env", "-i", "sleep", "60"], {}, log, "test mark")
    deadline = time.monotonic() + 10
    while not processes.pid_file(log).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # until env has become sleep
    assert not processes.marked("test mark")
    assert [p.pid for p in processes.recorded([log])] == [child.pid]
    assert running.clear("test mark", [log]) == 1
    child.wait(5)
    assert not processes.recorded([log])


def test_a_number_that_somebody_else_has_now_is_not_taken_for_it(tmp_path: Path) -> None:
    log = tmp_path / "old.log"
    file = processes.pid_file(log)
    own = Path(f"/proc/{os.getpid()}/stat").read_text("utf-8")
    file.write_text(own)
    assert [p.pid for p in processes.recorded([log])] == [os.getpid()]
    ticks = own.rpartition(")")[2].split()[19]
    file.write_text(own.replace(f" {ticks} ", f" {int(ticks) - 1} "))
    assert not processes.recorded([log])
    for text in ("no number", "", str(os.getpid())):
        file.write_text(text)
        assert not processes.recorded([log, tmp_path / "none.log"])


def test_a_clock_that_jumps_changes_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil reckons a start time from the wall clock's idea of when the machine booted."""
    before = processes.Process.of(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 3600)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before.alive
    assert processes.Process.of(os.getpid()) == before


def test_a_stopped_process_is_alive_and_a_zombie_is_not(tmp_path: Path) -> None:
    child = processes.spawn(["sleep", "60"], {}, tmp_path / "s.log", "stopped")
    process = processes.Process.of(child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    assert process.alive
    processes.kill_all([process])
    assert not process.alive
    child.wait(5)
    assert not process.alive


def test_a_program_starts_where_nothing_can_be_written_beside_its_log(tmp_path: Path) -> None:
    log = tmp_path / "s.log"
    processes.pid_file(log).mkdir()  # as good as a full disk
    child = processes.spawn(["sleep", "60"], {}, log, "full disk")
    try:
        time.sleep(0.2)
        assert child.poll() is None
        assert [p.pid for p in processes.marked("full disk")] == [child.pid]
    finally:
        child.kill()
        child.wait()


def test_a_log_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot start sleep: .*No such file"):
        processes.spawn(["sleep", "1"], {}, tmp_path / "none" / "s.log", "none")


def test_a_child_runs_on_the_cores_it_was_given(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    child = processes.spawn(["sleep", "60"], {}, tmp_path / "s.log", "cores", [core])
    try:
        assert os.sched_getaffinity(child.pid) == {core}
    finally:
        child.kill()
        child.wait()


def test_a_program_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot start no-such-program"):
        processes.spawn(["no-such-program"], {}, tmp_path / "s.log", "none")
