"""`shardwise compare` on stores, exported cells and evidence files, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from shardwise.evidence.export import write
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.evidence.store import open_store
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload


def cell(study: str, tpot_s: float, version: str, **conditions: object) -> Measured:
    evidence = Evidence(
        Deployment(model="m", gpu="h200", layout=Layout(tp_size=2), engine="vllm"),
        Workload(512, 128, 8),
        {"tpot_s": Interval(tpot_s, tpot_s * 0.99, tpot_s * 1.01, 40)},
        Source("measured", "test"),
    )
    return Measured(study, "k", evidence, {"versions": {"vllm": version}, **conditions})


def stored(path: Path, cells: Sequence[Measured]) -> str:
    with open_store(path) as store:
        for item in cells:
            store.put(item)
    return str(path)


def compare(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardwise.cli.main", "compare", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_an_upgrade_that_halves_the_speed_ends_with_exit_code_1(tmp_path: Path) -> None:
    store = stored(
        tmp_path / "s.db", [cell("before", 0.01, "0.9.1"), cell("after", 0.02, "0.10.0")]
    )
    done = compare(
        store, store, "--study-a", "before", "--study-b", "after", "--fail-if-slower", "5%"
    )
    assert done.returncode == 1, done.stderr
    assert "TPOT, all cells: slower by 100 %" in done.stderr
    assert "vllm: 0.9.1 in A, 0.10.0 in B" in done.stdout


def test_equal_runs_pass_and_say_what_could_not_be_seen(tmp_path: Path) -> None:
    a = stored(tmp_path / "a.db", [cell("x", 0.01, "1")])
    done = compare(a, a, "--fail-if-slower", "1%")
    assert done.returncode == 0
    assert "a slowdown of 1 % could be undetected in TPOT" in done.stderr
    assert compare(a, a, "--fail-if-slower", "10%").stderr == ""


def test_exported_cells_and_lines_of_evidence_are_runs_too(tmp_path: Path) -> None:
    item, bound = cell("x", 0.01, "1"), cell("x", 0.09, "1", client_bound=True)
    exported, lines = tmp_path / "cells.json", tmp_path / "lines.jsonl"
    write([item, bound], exported)
    lines.write_bytes(msgspec.json.encode(cell("y", 0.012, "2").evidence))
    done = compare(str(exported), str(lines), "--json", "-o", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["a"]["left_out"] == 1
    assert found["overall"][0]["verdict"] == "slower"
    assert found["overall"][0]["change_pct"]["value"] == pytest.approx(20.0)
    assert json.loads((tmp_path / "out.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.db", "none.db"], "cannot read none.db"),
        (["none.db", "none.db", "--fail-if-slower", "5"], "allowed: a percentage above 0"),
        (["none.json", "none.json", "--study-a", "x"], "allowed: a study of a store"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_2(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = compare(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_study_that_a_store_does_not_hold_is_refused(tmp_path: Path) -> None:
    a = stored(tmp_path / "a.db", [cell("x", 0.01, "1")])
    done = compare(a, a, "--study-b", "y")
    assert done.returncode == 2
    assert "unknown study 'y'" in done.stderr
