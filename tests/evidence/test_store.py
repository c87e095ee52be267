"""The store keeps whole cells, whatever happens to the process that writes them."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.evidence.measured import Measured, Repeat
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.evidence.request import RequestRecord
from shardwise.evidence.store import UnkeptError, is_store, open_store
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload


def cell(key: str, tpot_s: float = 0.01, requests: int = 2) -> Measured:
    records = tuple(
        RequestRecord(i, 1.0, 3, 1.0, 1.5, 1.6, array("d", [1.1, 1.3, 1.5]), 8, 3, True)
        for i in range(requests)
    )
    cut = RequestRecord(requests, 1.0, 3, failure="cut", detail="gone")
    evidence = Evidence(
        Deployment(
            model="m",
            gpu="cpu",
            layout=Layout(tp_size=2),
            engine="builtin",
        ),
        Workload(8, 3, 2),
        {"tpot_s": Interval(tpot_s, tpot_s * 0.9, tpot_s * 1.1, requests)},
        Source("measured", "test", "2026-01-01"),
    )
    repeat = Repeat(1.0, 2.0, (1.0, 1.6), (*records, cut), {"lag_p99_s": 0.001})
    return Measured("study", key, evidence, {"seed": 3, "failures": {"cut": 1}}, (repeat,))


def test_a_cell_comes_back_as_it_was_put(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.put(cell("a"))
        store.put(cell("b", 0.02))
    with open_store(tmp_path / "s.db", create=False) as store:
        assert store.studies() == ["study"]
        assert [c.key for c in store.cells("study")] == ["a", "b"]
        assert store.cells("other") == []
        found = store.cells()[1]
        assert found.evidence == cell("b", 0.02).evidence
        assert found.conditions == {"seed": 3, "failures": {"cut": 1}}
        (repeat,) = store.repeats("study", "a")
        assert repeat.client == {"lag_p99_s": 0.001}
        assert repeat.records[0] == cell("a").repeats[0].records[0]
        assert repeat.records[2].failure == "cut"
        assert math.isnan(repeat.records[2].last_s)


def test_a_cell_put_again_replaces_the_first_with_its_requests(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.put(cell("a", requests=5))
        store.put(cell("a", 0.03, requests=1))
        assert [c.evidence.metrics["tpot_s"].value for c in store.cells()] == [0.03]
        (repeat,) = store.repeats("study", "a")
        assert len(repeat.records) == 2
    count = sqlite3.connect(tmp_path / "s.db").execute("SELECT count(*) FROM request").fetchone()
    assert count == (2,)


def test_one_reads_while_another_writes(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as writer, open_store(tmp_path / "s.db") as reader:
        writer.put(cell("a"))
        assert reader.has("study", "a")
        assert not reader.has("study", "b")
        writer.put(cell("b"))
        assert reader.has("study", "b")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_store import cell
from shardwise.evidence.store import open_store
with open_store(Path(sys.argv[1])) as store:
    for number in range(100_000):
        store.put(cell(str(number), requests=50))
        print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_every_reported_cell_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it writes
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout]
    with open_store(path, create=False) as store:
        cells = store.cells()
        assert len(cells) >= len(reported) + 1
        for found in (cells[0], cells[-1]):
            (repeat,) = store.repeats("study", found.key)
            assert len(repeat.records) == 51
        store.put(cell("after"))


def test_a_file_of_another_kind_is_one_clear_error(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be looked at " * 10)
    with pytest.raises(InputError, match="not a database"):
        open_store(text)
    assert not is_store(text)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(InputError, match="another program"):
        open_store(foreign)
    newer = tmp_path / "newer.db"
    open_store(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="version 9"):
        open_store(newer)
    with pytest.raises(InputError, match="no store"):
        open_store(tmp_path / "none.db", create=False)
    with pytest.raises(InputError, match="cannot open"):
        open_store(tmp_path / "no" / "folder.db")


def test_a_cell_that_cannot_be_written_lies_in_a_store_beside(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with open_store(path, busy_s=0.1) as store:
        store.put(cell("a"))
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")  # somebody else writes, and goes on
            with pytest.raises(UnkeptError, match="locked") as raised:
                store.put(cell("b"))
            with pytest.raises(UnkeptError, match=r"unsaved-2\.db"):
                store.put(cell("c"))
            other.execute("ROLLBACK")
        store.put(cell("d"))
        assert [c.key for c in store.cells()] == ["a", "d"]
    beside = raised.value.beside
    assert beside == tmp_path / "s.unsaved-1.db"
    with open_store(beside, create=False) as rescued:
        assert [c.key for c in rescued.cells()] == ["b"]
        assert len(rescued.repeats("study", "b")[0].records) == 3


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_store import cell
from shardwise.evidence.store import UnkeptError, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_store(Path(sys.argv[1])) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    for number in range(1000):
        try:
            store.put(cell(str(number), requests=100))
        except UnkeptError as error:
            print(error)
            break
        print(number)
"""


def test_a_disk_that_fills_up_keeps_the_cells_before(tmp_path: Path) -> None:
    # no file may grow beyond 400 kB: what a small disk does to a write, without mounting one
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *kept, failure = done.stdout.splitlines()
    assert "cannot write" in failure
    assert "unsaved-1.db" in failure
    with open_store(path, create=False) as store:
        assert [c.key for c in store.cells()] == kept
        assert len(store.repeats("study", kept[-1])[0].records) == 101
        store.put(cell("after"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_store_cut_short_is_one_clear_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "s.db"
    with open_store(path) as store:
        for number in range(20):
            store.put(cell(str(number), requests=20))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    def read() -> None:
        with open_store(path, create=False) as store:
            for found in store.cells():
                store.repeats("study", found.key)

    with pytest.raises(InputError):
        read()


def test_a_store_in_a_folder_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s # 1.db"  # as a URI, this would end at the hash
    with open_store(path) as store:
        store.put(cell("a"))
    assert not Path(f"{path}-wal").exists()
    monkeypatch.setattr("os.access", lambda *_: False)
    with open_store(path, create=False) as store:
        assert [c.key for c in store.cells()] == ["a"]
        with pytest.raises(UnkeptError, match="readonly"):
            store.put(cell("b"))
    newer = tmp_path / "newer.db"
    open_store(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="version 9"):
        open_store(newer, create=False)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40))))
def test_a_damaged_store_is_one_clear_error_or_reads(
    tmp_path: Path, damage: list[tuple[float, bytes]]
) -> None:
    whole, path = tmp_path / "whole.db", tmp_path / "damaged.db"
    if not whole.exists():
        with open_store(whole) as store:
            for number in range(3):
                store.put(cell(str(number), requests=3))
    data = bytearray(whole.read_bytes())
    for at, noise in damage:
        place = int(at * len(data))
        data[place : place + len(noise)] = noise[: len(data) - place]
    path.write_bytes(data)
    with suppress(InputError), open_store(path, create=False) as store:
        for found in store.cells():
            store.repeats(found.study, found.key)
