"""`shardwise search` as it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardwise.simulator.search import Store

GRID = ("llama-3.1-8b", "--isl", "200", "--osl", "20", "--duration", "5s", "--rate", "2,4")


def search(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardwise.cli.main", "search", *GRID, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_grid_is_simulated_once_and_read_from_the_store_again(tmp_path: Path) -> None:
    words = ("--tp", "1,3", "--replicas", "2", "--seeds", "2", "--json")
    first = search(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)["summaries"]
    assert [(row["deployment"]["layout"]["tp_size"], row["request_rate"]) for row in found] == [
        (1, 2.0), (1, 4.0), (3, 2.0), (3, 4.0),
    ]  # fmt: skip
    assert found[0]["ttft_p99_s"]["n"] == 2
    assert "TP=3" in found[2]["error"]  # 8 KV heads: said as a result, not as a crash
    assert len(Store(tmp_path / "simulations.sqlite").outcomes()) == 8
    assert search(tmp_path, *words).stdout == first.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "fast"), "--rate 'fast'; expected: requests/s"),
        (("--tp", "0"), "--tp is '0'"),
        (("--policy", "best"), "allowed: round_robin"),
        (("--seeds", "0"), "'--seeds': 0 is not in the range"),
        (("--store", "/proc/none/runs.sqlite"), "cannot hold simulations"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = search(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
