"""`up` and `down` where they are not alone, or cannot write or read what they keep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.hosting.conftest import free_port, require_balancer, stand_in
from tests.hosting.test_checks import run

from shardwise.hosting import state
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, save
from shardwise.replica import processes

SLOW_TO_START = 'import time, runpy; time.sleep(3); runpy.run_path({!r}, run_name="__main__")'


def saved(folder: Path, slow: bool = False) -> Path:
    """A deployment of one stand-in behind Caddy."""
    require_balancer("caddy")
    path, first = folder / "deployment.toml", free_port(3)
    model = stand_in(1, first + 1)
    if slow:
        python, script, *rest = model.command
        line = [python, "-c", SLOW_TO_START.format(script), *rest]
        model = ModelTable(model="toy", engine="command", command=line, first_port=first + 1)
    save(DeploymentFile(port=first, balancer="caddy", models=[model]), path)
    return path


def started(path: Path, home: Path) -> subprocess.Popen[str]:
    """`up` at work: it has begun to start things."""
    up = subprocess.Popen(
        [sys.executable, "-m", "shardwise.cli.main", "up", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(home)},
    )
    deadline = time.monotonic() + 20
    log = home / "shardwise" / state.deployment_id(path) / "state.json"
    while not log.exists() and up.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return up


def nothing_runs(path: Path) -> bool:
    return processes.marked(state.deployment_id(path)) == []


def test_a_state_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "home").write_text("a file where a folder should be")
    done = run(path, tmp_path / "home", "up")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot make" in done.stderr
    assert "XDG_STATE_HOME" in done.stderr
    assert nothing_runs(path)


def test_a_state_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path)
    folder = tmp_path / "shardwise" / state.deployment_id(path)
    (folder / "lock").mkdir(parents=True)  # root may write into a read-only folder
    done = run(path, tmp_path, "up")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot write" in done.stderr
    assert nothing_runs(path)


@pytest.mark.live
def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path)
    folder = tmp_path / "shardwise" / state.deployment_id(path)
    folder.mkdir(parents=True)
    (folder / "state.json.partial").symlink_to("/dev/full")
    try:
        done = run(path, tmp_path, "up")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert nothing_runs(path)
    finally:
        run(path, tmp_path, "down", "--grace", "1")


@pytest.mark.live
def test_of_two_up_at_once_one_does_it_and_the_other_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, slow=True)
    first = started(path, tmp_path)
    try:
        second = run(path, tmp_path, "up")
        assert second.returncode == 2, second.stderr
        assert "another `shardwise up` of this file is running" in second.stderr
        assert second.stderr.count("\n") == 1
        out, err = first.communicate(timeout=60)
        assert first.returncode == 0, err
        assert "1 replicas behind caddy" in out
        assert run(path, tmp_path, "up").returncode == 0  # the lock went with its holder
    finally:
        down = run(path, tmp_path, "down")
    assert down.returncode == 0
    assert nothing_runs(path)


@pytest.mark.live
def test_down_ends_an_up_that_is_at_work(tmp_path: Path) -> None:
    path = saved(tmp_path, slow=True)
    up = started(path, tmp_path)
    down = run(path, tmp_path, "down", "--grace", "1")
    assert down.returncode == 0, down.stderr
    _, err = up.communicate(timeout=60)
    assert up.returncode == 1
    assert "the controller was stopped before every replica was ready" in err
    assert nothing_runs(path)


@pytest.mark.live
def test_a_corrupt_state_file_is_one_line_and_down_still_stops_everything(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert run(path, tmp_path, "up").returncode == 0
    folder = tmp_path / "shardwise" / state.deployment_id(path)
    controller = processes.recorded([folder / "logs" / "controller.log"])
    processes.kill_all(controller)  # it would write a good one
    (folder / "state.json").write_bytes(b'{"name": "sharp')
    for command in ("up", "status"):
        done = run(path, tmp_path, command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert "shardwise down" in done.stderr
    assert not nothing_runs(path)
    done = run(path, tmp_path, "down", "--grace", "2")
    assert done.returncode == 0, done.stderr
    assert nothing_runs(path)
    again = run(path, tmp_path, "down")
    assert again.returncode == 2
    assert "nothing was started" in again.stderr
    assert run(path, tmp_path, "up").returncode == 0
    assert run(path, tmp_path, "down", "--grace", "2").returncode == 0
    assert nothing_runs(path)
