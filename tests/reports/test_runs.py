"""Runs to compare, read from every kind of file that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from tests.reports.conftest import make

from shardwise.errors import InputError, UnknownNameError
from shardwise.evidence.export import write
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence
from shardwise.evidence.store import open_store
from shardwise.reports import saved
from shardwise.reports.runs import read_run
from shardwise.reports.saved import read_evidence, read_json, read_study, stored_evidence


def cell(batch: int, study: str = "night", **conditions: object) -> Measured:
    return Measured(study, str(batch), make(1, batch, 10.0, "measured", 40), conditions)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "cells.sqlite"
    with open_store(path) as opened:
        opened.put(cell(1, versions={"vllm": "0.9.1", "torch": "2.7"}))
        opened.put(cell(16, versions={"vllm": "0.9.2"}))
        opened.put(cell(64, client_bound=True, versions={"vllm": "0.0.1"}))
        opened.put(replace(cell(128), evidence=replace(cell(128).evidence, metrics={})))
        opened.put(cell(8, "day"))
    return path


def test_a_store_gives_its_usable_cells_and_counts_the_others(store: Path) -> None:
    run = read_run(store, "night")
    assert [e.workload.concurrency for e in run.evidence] == [1, 16]
    assert (run.name, run.left_out) == ("night", 2)
    # of two versions both are named; those of skipped cells are not
    assert dict(run.versions) == {"vllm": "0.9.1, 0.9.2", "torch": "2.7"}


def test_without_a_study_all_of_a_store_is_one_run_named_after_its_file(store: Path) -> None:
    run = read_run(store)
    assert (run.name, len(run.evidence)) == ("cells.sqlite", 3)
    assert len(stored_evidence(store)) == 3
    assert len(stored_evidence(store, "day")) == 1


def test_an_unknown_study_names_the_near_one(store: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown study 'nigth'; did you mean night\?"):
        read_run(store, "nigth")


def test_a_study_of_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="with the study 'night'; allowed: a study of a store"):
        read_run(path, "night")


def test_an_export_keeps_versions_and_what_it_skips(tmp_path: Path) -> None:
    path = tmp_path / "night.json"
    cells = [cell(1, versions={"vllm": "0.9.1"}), cell(64, client_bound=True)]
    write(cells, path)
    run = read_run(path)
    assert (run.name, run.left_out, dict(run.versions)) == ("night.json", 1, {"vllm": "0.9.1"})
    assert run.evidence == (cells[0].evidence,)


def test_a_list_of_evidence_and_lines_of_it_are_runs_too(tmp_path: Path) -> None:
    items = [make(1, batch, 10.0, "measured", 40) for batch in (1, 16)]
    (tmp_path / "list.json").write_bytes(msgspec.json.encode(items))
    lines = b"\n\n".join(map(msgspec.json.encode, items))  # an empty line between
    (tmp_path / "lines.jsonl").write_bytes(lines)
    for name in ("list.json", "lines.jsonl"):
        assert read_run(tmp_path / name).evidence == tuple(items), name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.json", b"[]", "has no usable cells"),
        ("cut.json", b'[{"deployment": {', "is not a saved study"),
        ("line.jsonl", b'{"deployment": 1}', "is not a saved study"),
        ("number.json", b"7", "is not a saved study"),
        ("deep.json", b"[" * 100_000, "is not a saved study"),
    ],
)
def test_a_file_without_results_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_run(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such.json", "folder/no-such", "x" * 5000])
def test_a_path_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot read") as caught:
        read_run(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_study_says_which_command_writes_one(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot read .*study.json: No such file .*shardwise study"
    ):
        read_run(tmp_path)
    with pytest.raises(InputError, match="pass a folder written by `shardwise study"):
        read_study(tmp_path)


def test_a_file_of_fifty_megabytes_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "MAX_BYTES", 1000)
    (tmp_path / "big.json").write_text(json.dumps(["x" * 2000]))
    with pytest.raises(InputError, match=r"has 0 MB; allowed: 0.001 MB"):
        read_evidence(tmp_path / "big.json")


def test_json_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"deployment": {"model": 3}}')
    with pytest.raises(InputError, match=r"Expected `str`, got `int` - at `\$.deployment.model`"):
        read_json(tmp_path / "a.json", Evidence)
