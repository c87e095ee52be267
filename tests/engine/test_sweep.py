"""The built-in engine under `shardwise bench sweep`: TP=1 and 2, concurrency 1 and 8."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")
pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")


def _sweep(model: Path, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "shardwise.cli.main", "bench", "sweep", str(model)]
    command += ["--gpu", "cpu", "--tp", "1,2", "--concurrency", "1,8", "--isl", "24"]
    command += ["--osl", "12", "--port", str(port), "--store", str(store), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_sweep_ends_in_a_table_with_intervals_on_the_tp_step(llama: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    done = _sweep(llama, store, "--repeats", "3,3", "--json")
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert len(cells) == 4
    for cell in cells:
        assert cell["conditions"]["failures"] == {}
        assert cell["conditions"]["completed"] == cell["conditions"]["requests"]
        assert cell["conditions"]["tokens"]["without_usage"] == 0
        for interval in cell["evidence"]["metrics"].values():
            assert 0 < interval["lo"] <= interval["value"] <= interval["hi"]
        assert cell["conditions"]["versions"]["torch"]
        assert cell["evidence"]["deployment"]["engine"] == "builtin"
    assert {c["conditions"]["threads_per_rank"] for c in cells} <= {1, 2, 4, 8, 16, 32, 64}
    # nothing is missing, so the table comes at once and no engine is started
    again = _sweep(llama, store, "--repeats", "3,3")
    assert again.returncode == 0, again.stderr
    assert "starting" not in again.stderr
    assert "Change per TP step, % (measured)" in again.stdout or "client-bound" in again.stdout


def test_an_engine_that_cannot_start_is_exit_4_with_its_own_words(
    llama: Path, tmp_path: Path
) -> None:
    done = _sweep(llama, tmp_path / "s.db", "--flag=--no-such-flag")
    assert done.returncode == 4
    assert "no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr
