"""`shardwise bench` on the command line: one clear line for what cannot be measured."""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("uvloop", reason="needs: pip install 'shardwise[bench]'")

from shardwise.bench.selftest import known_server
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.evidence.store import open_store
from shardwise.layout.deployment import Deployment
from shardwise.workload.workload import Workload


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


def test_an_export_says_why_cells_are_no_rows(tmp_path: Path) -> None:
    path, rows = tmp_path / "s.db", tmp_path / "rows.csv"
    closed = Workload(512, 128, 8, length_spread=0.0)
    rate = replace(closed, request_rate=2.0)
    cells = [(closed, {}), (rate, {}), (rate, {}), (closed, {"client_bound": True})]
    with open_store(path) as store:
        for number, (load, conditions) in enumerate(cells):
            evidence = Evidence(
                Deployment("llama-3.1-8b", "h200"),
                load,
                {"tpot_s": Interval(0.01, 0.009, 0.011, 40)},
                Source("measured", "test"),
            )
            store.put(Measured("bench", str(number), evidence, conditions))
    done = bench("export", str(path), "-o", str(rows))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"wrote 1 cells to {rows}",
        "skipped: 2 at a request rate, which rows cannot express; 1 client-bound",
    ]
    with rows.open() as handle:
        (row,) = csv.DictReader(handle)
    assert (row["length_cv"], row["requests"]) == ("0", "8000")


def test_no_request_completed_is_exit_4_and_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "s.db")
    with known_server(0.005, 0.001, "error_event", every=1) as target:
        done = bench(
            "run", target.url, "--concurrency", "2", "--isl", "8", "--osl", "6",
            "--store", store, "--sharegpt", str(_sharegpt(tmp_path)),
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "error_event" in done.stderr
    assert "no request completed" in bench("show", store, "--wide").stdout


def test_a_server_that_ends_answers_early_is_measured_when_asked(tmp_path: Path) -> None:
    words = ["--concurrency", "2", "--isl", "8", "--osl", "6", "--repeats", "1,1"]
    store = ["--store", str(tmp_path / "s.db")]
    with known_server(0.005, 0.001, "short", every=1) as target:
        done = bench("run", target.url, *words, *store)
        taken = bench("run", target.url, *words, *store, "--actual-lengths", "--json")
    assert done.returncode == 4
    assert "--actual-lengths" in done.stderr
    assert taken.returncode == 0, taken.stderr
    (cell,) = json.loads(taken.stdout)["cells"]
    assert cell["evidence"]["workload"]["osl"] == 5
    assert cell["evidence"]["deployment"]["engine"] == "unknown"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_warm_up_ends_the_command(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "s.db"
    words = ["--concurrency", "2", "--isl", "8", "--osl", "6", "--store", str(store)]
    command = [sys.executable, "-m", "shardwise.cli.main", "bench", "run"]
    with known_server(0.5, 0.2) as target:
        begun = time.monotonic()
        with subprocess.Popen(
            [*command, target.url, *words], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert "known tp=1" in process.stderr.readline()
            time.sleep(0.7)  # the warm-up takes 1.5 s, and begins at once
            process.send_signal(number)
            left = process.stderr.read()
    assert process.returncode == 130, left
    assert "Traceback" not in left
    # ten requests in five waves of 1.5 s, three times: what it would have taken
    assert time.monotonic() - begun < 15.0
    assert "contains no cells" in bench("show", str(store)).stderr


def test_a_cell_that_the_store_cannot_take_is_shown_and_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    open_store(path).close()
    with sqlite3.connect(path) as db:  # as a disk that is full: no page more than there are
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON cell BEGIN"
            " SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    words = ["--concurrency", "2", "--isl", "8", "--osl", "6", "--repeats", "1,1"]
    with known_server(0.005, 0.001) as target:
        done = bench("run", target.url, *words, "--store", str(path))
    assert done.returncode == 2
    assert "tok/s" in done.stdout
    assert "disk is full" in done.stderr
    assert "1 of 1 cells are not in" in done.stderr
    beside = bench("show", str(tmp_path / "s.unsaved-1.db"))
    assert beside.returncode == 0, beside.stderr
    assert "tok/s" in beside.stdout


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
        (["run", "http://127.0.0.1:1", "--engine", "zzz"], "unknown engine 'zzz'"),
        (["run", "http://127.0.0.1:1", "--dtype", "zzz"], "unknown dtype 'zzz'"),
        (["run", "http://127.0.0.1:1", "--architecture", "llama-9"], "llama-9"),
        (["run", "http://127.0.0.1:1", "--gpu", "h20O"], "did you mean"),
        (["run", "http://127.0.0.1:1", "--cell-time", "nan"], "--cell-time is 'nan'"),
        (["run", "http://127.0.0.1:1", "--stall-timeout", "90"], "allowed: a time with a unit"),
        (["run", "http://127.0.0.1:1", "--seed", "-1"], "--seed"),
        # files are read before anybody is asked
        (["run", "http://127.0.0.1:1", "--trace", "none.csv"], "cannot read the trace none.csv"),
        (["run", "http://127.0.0.1:1", "--sharegpt", "none.json"], "cannot read none.json"),
        (["run", "http://user:key@127.0.0.1:1"], "--api-key-env"),
        (["run", "https://127.0.0.1:1", "--ca-file", "none.pem"], "none.pem"),
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
