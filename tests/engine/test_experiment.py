"""`shardwise study --measure` on the built-in engine, killed anywhere and run again."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardwise.replica import processes

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[measure]'")


def _command(model: Path, folder: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "shardwise.cli.main", "study", str(model), "--measure"]
    command += ["--tp", "1,2", "--batch", "2", "--isl", "16", "--osl", "8"]
    return [*command, "-o", str(folder), *options]


@pytest.fixture(scope="session")
def hardware(llama: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The files of this machine, measured once: it takes longer than what most tests measure."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent  # shared by the workers
    home, begun = root / "measured-home", root / f"measured-home-{worker_id}"
    with (root / "measured-home.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            env = {**os.environ, "SHARDWISE_HOME": str(begun), "CUDA_VISIBLE_DEVICES": ""}
            done = subprocess.run(
                _command(llama, root / "measured-once", "--flag=--no-such-flag"),
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 4, done.stderr  # after the machine was measured
            begun.rename(home)
    return home / "hardware"


@pytest.fixture
def environment(hardware: Path, tmp_path: Path) -> dict[str, str]:
    """Settings of a process with a user's folder of its own, on the cores of this machine."""
    shutil.copytree(hardware, tmp_path / "home" / "hardware")
    return {**os.environ, "SHARDWISE_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}


def _rows(store: Path, query: str) -> list[Any]:
    with sqlite3.connect(store) as db:
        return db.execute(query).fetchall()


def test_killed_at_three_random_points_it_ends_with_the_same_cells_and_no_duplicate(
    llama: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder, log = tmp_path / "measured", tmp_path / "log"
    env = environment
    for most in (6.0, 12.0, 18.0):
        after_s = random.uniform(0.5, most)
        with log.open("a") as out:
            child = subprocess.Popen(_command(llama, folder), env=env, stdout=out, stderr=out)
            try:
                child.wait(after_s)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
        print(f"killed after {after_s:.1f} s")
    done = subprocess.run(
        _command(llama, folder, "--json"),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + log.read_text()
    store = folder / "measured.db"
    # both modes on TP=1 and TP=2, and on TP=1 over as many cores as TP=2 has; the whole machine as
    # two copies, in a closed loop
    keys = [key for (key,) in _rows(store, "SELECT key FROM cell")]
    cores = len(os.sched_getaffinity(0))
    assert len(keys) == len(set(keys)) == (7 if cores > 1 else 4)
    per_cell = _rows(store, "SELECT cell, count(*) FROM repeat GROUP BY cell")
    assert all(repeats >= 3 for _, repeats in per_cell), "intervals come from repeats"
    assert _rows(store, "SELECT count(*) FROM request")[0][0] >= 3 * len(keys)
    found = json.loads(done.stdout)["outcome"]
    made = {c["key"]: c["made"] for c in found["corrected"]["compared"]}
    for key, created in _rows(store, "SELECT key, created FROM cell"):
        assert not made[key] or made[key] <= created, "predicted before it was measured"
    assert processes.marked(f"experiment {folder.resolve()}") == []
    with (folder / "comparison.csv").open() as handle:
        assert len(list(csv.reader(handle))) == 1 + len(keys)
    page = (folder / "report.html").read_text()
    assert "Measured and predicted" in page
    if found["corrected"]["scores"]:  # none where the client shared too few cores to keep up
        assert (tmp_path / "home" / "profiles" / "this-machine.json").exists()


def test_the_runs_of_a_cell_lie_a_start_apart_where_an_engine_starts_quickly(
    llama: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "shardwise.cli.main", "study", str(llama), "--measure"]
    command += ["--tp", "1", "--batch", "1,2", "--isl", "16", "--osl", "8", "-o"]
    done = subprocess.run(
        [*command, str(tmp_path / "m")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    runs = [
        key
        for (key,) in _rows(
            tmp_path / "m" / "measured.db",
            "SELECT key FROM repeat JOIN cell ON cell.id = repeat.cell ORDER BY started_s",
        )
    ]
    # one split, two batches in two modes: each visit makes one run of the four
    starts = done.stderr.count("starting builtin")
    assert starts in (1, 3), "once where a start took longer than ten seconds"
    for visit in (runs[:4], runs[4:8], runs[8:]):
        assert sorted(visit) == sorted(set(runs))


def test_a_budget_names_what_it_leaves_out(
    llama: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        _command(llama, tmp_path / "m", "--minutes", "0.3"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "did not fit the budget: " in done.stderr
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tp", "3"], "TP=3"),
        (["--engine", "trtllm"], "allowed to be measured: vllm, sglang, builtin"),
        (["--env", "X"], "allowed: NAME=VALUE"),
        (["--minutes", "0"], "--minutes"),
        (["--flag=--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_input_is_said_before_anything_is_measured(
    llama: Path, tmp_path: Path, environment: dict[str, str], options: list[str], words: str
) -> None:
    done = subprocess.run(
        _command(llama, tmp_path / "m", *options),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in (2, 4)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
