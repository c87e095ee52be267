from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from shardwise.analysis.run import Study
from shardwise.cli.study import study as study_command
from shardwise.errors import InputError
from shardwise.evidence.measured import Measured
from shardwise.evidence.store import open_store
from shardwise.reports.saved import read_evidence
from shardwise.web.asking import explorer, study_of
from shardwise.web.payload import payload
from shardwise.web.state import State, StateError
from shardwise.web.store import Store


def test_the_command_shown_makes_the_same_study_as_the_page() -> None:
    output = study_of(explorer(), State(isl=512, osl=128))
    assert output.about
    words = shlex.split(output.about.command)
    result = CliRunner().invoke(study_command, [*words[2:], "--json"])
    shown = msgspec.json.decode(result.output)
    assert msgspec.convert(shown["study"], Study) == output.study


@pytest.mark.parametrize(
    ("state", "field"),
    [
        (State(model="/etc/passwd"), "model"),
        (State(model="../../secret"), "model"),
        (State(gpu="h999"), "gpu"),
        (State(gpus=9), "gpus"),
        (State(isl=900_000), "isl"),
        (State(model="llama-3.1-405b", gpu="l40s", dtype="bf16"), "gpus"),
        (State(vs_gpu="nope"), "vs_gpu"),
        (State(study="nope"), "study"),
    ],
)
def test_what_cannot_be_studied_is_said_at_the_field_to_change(state: State, field: str) -> None:
    with pytest.raises(StateError) as caught:
        study_of(explorer(), state)
    assert set(caught.value.problems) == {field}


def test_what_cannot_stand_beside_is_said_at_the_field_that_chose_it() -> None:
    with pytest.raises(StateError) as caught:
        payload(explorer(), State(dtype="bf16", vs_model="llama-3.1-405b", vs_gpu="l40s"))
    assert set(caught.value.problems) <= {"vs_gpu", "vs_model"}


def test_measurements_of_the_store_are_laid_over_the_predictions(store: Path) -> None:
    found = payload(explorer(store=Store(store)), State(study="night-run"))
    kinds = {p["kind"] for p in found["points"]}
    assert kinds == {"predicted", "measured"}
    # every metric was made 10 % larger: 1 / 1.1 - 1 = -9.1 %
    assert any("TPOT: mean error 9.1 % (n=3)" in line for line in found["beside"])


def test_a_rate_names_the_batch_that_keeps_up_or_says_that_none_does() -> None:
    state = State(rate=3.0)
    found = payload(explorer(), state)
    for row in found["rates"]:
        most = float(row["most"].split()[0])
        assert (row["batch"] is None) == (most < state.rate)


def test_a_store_lists_what_lies_inside_it_and_can_be_read(store: Path) -> None:
    assert set(Store(store).listed()) == {"night-run", "hostile"}
    assert "link" not in Store(store).files


@pytest.fixture
def measured_store(store: Path, tmp_path: Path) -> Path:
    """A folder with what `shardwise bench` writes, one cell of two unusable, and a stranger's."""
    cells = read_evidence(store / "night-run.json")
    with open_store(tmp_path / "node7.db") as opened:
        for i, cell in enumerate(cells):
            opened.put(Measured("tuesday", str(i), cell))
        opened.put(Measured("tuesday", "bound", cells[0], {"client_bound": True}))
    with sqlite3.connect(tmp_path / "other.db") as strange:
        strange.execute("CREATE TABLE cell (id)")
    (tmp_path / "text.db").write_text("not a database")
    return tmp_path


@pytest.mark.parametrize("place", [".", "node7.db"])
def test_measured_cells_of_a_store_lie_over_the_predictions(
    measured_store: Path, place: str
) -> None:
    known = explorer(store=Store(measured_store / place))
    assert set(known.store.listed()) == {"node7: tuesday"}
    found = payload(known, State(study="node7: tuesday"))
    # the cells are the predictions at TP=8, 10 % slower: 1 / 1.1 - 1 = -9.1 %
    assert "E2E latency: mean error 9.1 % (n=3)" in found["beside"][2]
    assert {p["kind"] for p in found["points"]} == {"predicted", "measured"}


def test_a_cell_put_while_the_explorer_runs_is_seen(measured_store: Path) -> None:
    known = Store(measured_store)
    before = known.evidence("node7: tuesday")
    with open_store(measured_store / "node7.db") as opened:
        late = replace(before[0], workload=replace(before[0].workload, concurrency=2))
        opened.put(Measured("tuesday", "late", late))
        assert known.evidence("node7: tuesday") == [*before, late]


def test_a_report_takes_measured_cells_from_a_store(measured_store: Path) -> None:
    assert len(read_evidence(measured_store / "node7.db")) == 3


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store"):
        _ = Store(tmp_path / "none").files
