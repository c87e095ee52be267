"""`shardwise bench` on the command line: one clear line for what cannot be measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")

from shardwise.bench.selftest import known_server


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardwise.cli.main", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_an_endpoint_is_measured_kept_and_shown(tmp_path: Path) -> None:
    store = str(tmp_path / "s.db")
    load = ["--concurrency", "2", "--isl", "8", "--osl", "6", "--repeats", "3,3"]
    with known_server(0.02, 0.005) as target:
        done = bench("run", target.url, *load, "--store", store, "--json")
        rate = bench(
            "run", target.url, "--request-rate", "20", "--requests", "20", "--concurrency", "4",
            "--isl", "8", "--osl", "6", "--repeats", "1,1", "--store", store, "--study", "rate",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["conditions"]["completed"] == 60
    assert rate.returncode == 0, rate.stderr
    shown = bench("show", store)
    assert shown.returncode == 0, shown.stderr
    assert "requests/s" in shown.stdout
    assert "Traceback" not in shown.stderr


def test_no_request_completed_is_exit_4_and_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "s.db")
    with known_server(0.005, 0.001, "error_event", every=1) as target:
        done = bench(
            "run", target.url, "--concurrency", "2", "--isl", "8", "--osl", "6",
            "--store", store, "--sharegpt", str(_sharegpt(tmp_path)),
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "error_event" in done.stderr
    assert "nothing completed" in bench("show", store).stdout


def _sharegpt(folder: Path) -> Path:
    said = [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "hello"}]
    file = folder / "chat.json"
    file.write_text(json.dumps([{"conversations": said}]))
    return file


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "http://127.0.0.1:1"], "nobody answers at http://127.0.0.1:1"),
        (["run", "no-url"], "allowed: http://host:port"),
        (["run", "http://127.0.0.1:1", "--concurrency", "0"], "--concurrency is '0'"),
        (["run", "http://127.0.0.1:1", "--request-rate", "-1"], "--request-rate is '-1'"),
        (["run", "http://127.0.0.1:1", "--api-key-env", "NOT_SET_HERE"], "a variable that is set"),
        (["sweep", "llama-3.1-8b", "--tp", "3"], "TP=3 does not divide"),
        (["sweep", "llama-3.1-8b", "--gpu", "cpu", "--devices", "999"], "allowed on this machine"),
        (["sweep", "llama-3.1-8b", "--env", "NAME"], "NAME=VALUE"),
        (["show", "none.db"], "no store at none.db"),
        (["export", "none.db", "-o", "x.txt"], ".csv, .json, .parquet"),
        (["import", "none.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_2(
    tmp_path: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench(*words)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
