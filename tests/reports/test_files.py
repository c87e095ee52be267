from __future__ import annotations

import csv
import io
import json
import stat
import threading
from pathlib import Path

import pytest

from shardwise.analysis.grid import Grid
from shardwise.errors import InputError
from shardwise.reports.files import (
    evidence_csv,
    prepare_folder,
    table_csv,
    write_bytes,
    write_csv,
    write_evidence_csv,
    write_json,
)
from shardwise.reports.tables import study_table


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []  # the proof of writability leaves nothing behind


def test_a_folder_that_cannot_be_written_is_found_before_work_starts(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("kept")
    for path in (in_the_way, in_the_way / "below"):
        with pytest.raises(InputError, match=r"output folder .* cannot be written"):
            prepare_folder(path)
    assert in_the_way.read_text() == "kept"


def test_a_read_only_file_system_is_refused_in_one_line() -> None:
    with pytest.raises(InputError) as caught:
        prepare_folder(Path("/proc/shardwise"))
    assert "\n" not in str(caught.value)


def test_an_existing_file_is_replaced_whole_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    contents = {b"a" * 200_000, b"b" * 200_000}
    write_bytes(path, min(contents))
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in contents:
            write_bytes(path, content)
    done.set()
    reader.join()
    assert seen <= contents
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()  # a folder cannot be replaced by a file
    (target / "old").write_text("kept")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(target, b"new")
    assert (target / "old").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_written_files_can_be_read_by_others_as_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    ours = write_bytes(tmp_path / "ours", b"")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_evidence_survives_as_json(tmp_path: Path, grid: Grid) -> None:
    path = write_json(tmp_path / "evidence.json", list(grid.values()))
    first = json.loads(path.read_text())[0]
    assert first["deployment"]["layout"]["tp_size"] == 1
    assert first["metrics"]["e2e_latency_s"] == {
        "value": 10.0,
        "lo": pytest.approx(10 / 1.1),
        "hi": pytest.approx(11.0),
        "n": 0,
    }
    assert first["source"]["kind"] == "predicted"


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"error_points": float("nan")})
    assert json.loads(path.read_text()) == {"error_points": None}


def test_evidence_csv_has_a_line_a_result_with_interval_and_n(
    tmp_path: Path, measured: Grid
) -> None:
    path = write_evidence_csv(tmp_path / "evidence.csv", measured.values())
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measured)
    assert (rows[0]["source_kind"], rows[0]["tp_size"], rows[0]["concurrency"]) == (
        "measured",
        "1",
        "16",
    )
    assert float(rows[0]["e2e_latency_s"]) == pytest.approx(10.5)
    assert float(rows[0]["e2e_latency_s_hi"]) == pytest.approx(11.55)
    assert rows[0]["e2e_latency_s_n"] == "40"
    assert float(rows[0]["communication_s"]) == pytest.approx(2.1)


def test_no_evidence_is_an_empty_csv() -> None:
    assert evidence_csv([]).strip() == ""


def test_a_table_as_csv_keeps_raw_values_in_si(tmp_path: Path, grid: Grid) -> None:
    table = study_table(grid)
    rows = list(csv.DictReader(io.StringIO(table_csv(table))))
    # shown as 80.0 ms, written as 10 * 0.8 / 100 = 0.08 s
    assert float(rows[0]["tpot_s"]) == pytest.approx(0.08)
    assert float(rows[0]["tpot_s_lo"]) == pytest.approx(0.08 / 1.1)
    assert float(rows[0]["communication_share"]) == pytest.approx(0.2)
    assert write_csv(tmp_path / "study.csv", table).read_text() == table_csv(table)
