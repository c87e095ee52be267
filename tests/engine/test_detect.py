"""This machine measured for real, its file read by plan, and rows of its own narrowing the bars."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine.detect import MESSAGE_BYTES, fit_line, worlds  # noqa: E402
from shardwise.hardware.catalogue import load_catalogue  # noqa: E402
from shardwise.hardware.gpu import AllReduceLine  # noqa: E402
from shardwise.hardware.measured import Measured, to_toml  # noqa: E402

ROOT = Path(__file__).parents[2]


def shardwise(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"SHARDWISE_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
    settings["CUDA_VISIBLE_DEVICES"] = ""  # what is measured here are cores
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **settings},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with this machine in it, measured in short."""
    folder = tmp_path_factory.mktemp("home")
    detect = ("hardware", "detect", "--device", "cpu", "--short", "--threads-per-rank", "1")
    got = shardwise(folder, *detect)
    assert got.returncode == 0, got.stderr
    return folder


def test_the_file_is_of_ranks_and_says_how_each_number_came(home: Path) -> None:
    path = home / "hardware" / "this-machine.toml"
    gpu = load_catalogue([path]).gpu("this-machine")
    cores = len(os.sched_getaffinity(0))
    assert gpu.vendor == "cpu"
    assert gpu.num_compute_units == 1
    assert gpu.node_gpus == min(cores, 8)
    assert sorted(gpu.all_reduce) == [world for world in worlds(min(cores, 8)) if world > 1]
    # a core reads between a disk's and a GPU's rate, and multiplies faster than a byte each
    assert 0.5e9 < gpu.memory_bandwidth < 1e12
    assert gpu.flops["fp32"] > 1e9
    for line in gpu.all_reduce.values():
        assert 1e-7 < line.latency_s < 0.1
        assert 1e7 < line.bytes_per_s < 1e12
    assert f"of 1 thread on {cores} cores" in path.read_text()
    facts = load_catalogue([path]).facts("this-machine")
    assert all(fact.source.startswith("measured: ") and fact.date for fact in facts)


def plan(home: Path, *more: str) -> dict[str, Any]:
    asked = ("--gpu", "this-machine", "--gpus", "1", "--engine", "builtin", "--concurrency", "4")
    got = shardwise(
        home, "plan", "smollm2-135m", *asked, "--isl", "128", "--osl", "64", "--json", *more
    )
    assert got.returncode == 0, got.stderr
    found: dict[str, Any] = json.loads(got.stdout)
    return found


def test_plan_knows_the_machine_and_own_rows_narrow_its_bars(home: Path, tmp_path: Path) -> None:
    before = json.dumps(plan(home))
    assert "this-machine/builtin not calibrated" in before
    assert '"shardwise", "serve"' in before
    # rows as a quiet machine would give them: the prediction's shape, half as slow again
    header = ("model_id", "gpu_id", "engine_id", "weight_dtype", "tp", "mode", "concurrency")
    cells = [
        dict.fromkeys(header, "")
        | {"model_id": "smollm2-135m", "gpu_id": "this-machine", "engine_id": "builtin"}
        | {"weight_dtype": "bf16", "tp": "1", "mode": "static_batch", "concurrency": str(batch)}
        | {"isl": str(isl), "osl": "64"}
        for batch in (1, 2, 4, 8, 16)
        for isl in (64, 128)
    ]
    asked, rows = tmp_path / "asked.csv", tmp_path / "rows.csv"
    _write(asked, cells)
    got = shardwise(home, "predict", str(asked), "-o", str(tmp_path / "predicted.csv"))
    assert got.returncode == 0, got.stderr
    for row, said in zip(cells, csv.DictReader((tmp_path / "predicted.csv").open()), strict=True):
        row["e2e_s"] = str(1.5 * float(said["pred_e2e_s"]))
    _write(rows, cells)
    got = shardwise(home, "calibrate", str(rows), "--name", "mine")
    assert got.returncode == 0, got.stderr
    after = plan(home, "--profile", "mine")
    assert "this-machine/builtin calibrated" in json.dumps(after)
    assert _spread(after) < _spread(json.loads(before))
    # what was learnt is this machine's slowness: half as slow again, near to
    assert shardwise(
        home, "predict", str(asked), "--profile", "mine", "-o", str(tmp_path / "after.csv")
    )
    for row, said in zip(cells, csv.DictReader((tmp_path / "after.csv").open()), strict=True):
        assert float(said["pred_e2e_s"]) == pytest.approx(float(row["e2e_s"]), rel=0.1)


def test_a_busy_machine_is_said_in_the_file() -> None:
    quiet = Measured(
        name="A CPU",
        vendor="cpu",
        device="cpu",
        num_ranks=1,
        threads_per_rank=4,
        cores=4,
        compute_units=4,
        memory_bytes=8e9,
        memory_bandwidth=4e10,
        flops={"bf16": 4e11},
        all_reduce={},
        date="2026-11-23",
        seconds=4.0,
        load_before=0.9,
    )
    assert "busy" not in to_toml("a", quiet)
    assert "The machine was busy (load 1.1)" in to_toml("a", replace(quiet, load_before=1.1))
    # one rank has no peer to reduce with: its link is said to be its memory
    assert "memory bandwidth, for want of a peer" in to_toml("a", quiet)


def _write(path: Path, cells: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(cells[0]))
        writer.writeheader()
        writer.writerows(cells)


def _spread(found: Any) -> float:
    """hi / lo of the first E2E latency in a plan."""
    if isinstance(found, dict):
        if "e2e_latency_s" in found and isinstance(found["e2e_latency_s"], dict):
            interval = found["e2e_latency_s"]
            return float(interval["hi"] / interval["lo"])
        found = list(found.values())
    if isinstance(found, list):
        return max((_spread(each) for each in found), default=0.0)
    return 0.0


def test_a_line_gives_back_the_latency_and_rate_it_was_drawn_from() -> None:
    drawn = [5e-6 + size / 4e9 for size in MESSAGE_BYTES]
    line = fit_line(MESSAGE_BYTES, drawn)
    assert line.latency_s == pytest.approx(5e-6)
    assert line.bytes_per_s == pytest.approx(4e9)


def test_points_that_fall_still_make_a_line_with_a_rate() -> None:
    line = fit_line(MESSAGE_BYTES, [1e-3] * len(MESSAGE_BYTES))
    assert isinstance(line, AllReduceLine)
    assert line.latency_s > 0
    assert line.bytes_per_s > 0


def test_world_sizes_are_the_powers_of_two_and_all_ranks() -> None:
    assert worlds(1) == [1]
    assert worlds(6) == [1, 2, 4, 6]
    assert worlds(8) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--name", "My Machine"), "name 'My Machine'; allowed: lower-case letters"),
        (("--threads-per-rank", "100000"), "--threads-per-rank is 100000; allowed: up to the"),
        (("-o", "/proc/nowhere/x.toml"), "cannot write to /proc/nowhere"),
    ],
)
def test_what_cannot_be_measured_or_written_is_one_line_and_exit_2(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    got = shardwise(tmp_path, "hardware", "detect", "--device", "cpu", "--short", *options)
    assert got.returncode == 2
    assert says in got.stderr
    assert len(got.stderr.strip().splitlines()) == 1
