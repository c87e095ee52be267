"""A process that hides its environment is found and stopped all the same."""

from __future__ import annotations

import os
import time
from pathlib import Path

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
    file.write_text(f"{os.getpid()}\n")
    os.utime(file, (0, 0))  # written long before this process began
    assert not processes.recorded([log])
    file.write_text("no number")
    assert not processes.recorded([log, tmp_path / "none.log"])


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
