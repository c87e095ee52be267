from __future__ import annotations

import math
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
from shardwise.web.asking import cells_of, explorer, found_of, study_of
from shardwise.web.payload import payload
from shardwise.web.state import State, StateError, parse_state
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
        (State(vs_gpu=("nope",)), "vs_gpu"),
        (State(study="nope"), "study"),
    ],
)
def test_what_cannot_be_studied_is_said_at_the_field_to_change(state: State, field: str) -> None:
    with pytest.raises(StateError) as caught:
        found_of(explorer(), state)
    assert set(caught.value.problems) == {field}


def test_what_does_not_fit_stands_in_the_comparison_with_its_reason() -> None:
    state = State(model="llama-3.1-405b", gpu="h200", dtype="bf16", vs_gpu=("l40s", "b200"))
    rows = payload(explorer(), state)["compare"]["rows"]
    assert [row["fits"][:3] for row in rows] == ["yes", "no:", "yes"]
    assert "does not fit" in rows[1]["fits"]


def test_each_subject_compared_is_its_own_answer() -> None:
    rows = payload(explorer(), State(vs_gpu=("h200",), vs_model=("qwen3-32b",)))["compare"]["rows"]
    for row, other in zip(rows[1:], (State(gpu="h200"), State(model="qwen3-32b")), strict=True):
        (alone, *_) = payload(explorer(), other)["answers"]
        assert (row["layout"], row["numbers"]) == (alone["title"], alone["numbers"])


def test_a_layout_that_the_state_names_is_taken_apart() -> None:
    cell = payload(explorer(), State(layout="TP4 x PP2", batch=8))["cell"]
    assert (cell["layout"], cell["batch"]) == ("TP4 x PP2", 8)


def test_the_cell_of_the_answer_is_the_answers_own_evidence() -> None:
    found = found_of(explorer(), State())
    shown = found.answer.shown
    assert shown
    layout, batch = shown.evidence.deployment.layout, shown.evidence.workload.concurrency
    (cell,) = cells_of(found, [(layout, batch)])
    assert cell.metrics == shown.evidence.metrics


def test_more_than_four_are_not_compared() -> None:
    with pytest.raises(StateError, match="up to 3"):
        parse_state({"vs_gpu": "h200,b200", "vs_model": "qwen3-32b,qwen3-14b"})


def test_measurements_of_the_store_are_laid_over_the_predictions(store: Path) -> None:
    found = payload(explorer(store=Store(store)), State(study="night-run"))
    measured = [r for r in found["chart"]["rows"] if r["role"] == "measured"]
    # (TP=8, batch 16): 1 / (TPOT x 1.1) tokens/s a user
    assert sorted(r["batch"] for r in measured) == [1, 16, 64]
    # every metric was made 10 % larger: 1 / 1.1 - 1 = -9.1 %
    assert any("TPOT: mean error 9.1 % (n=3)" in line for line in found["beside"])


@pytest.mark.parametrize("rate", [1.0, 3.0, 3.4])
def test_a_cell_that_does_not_keep_up_says_so(rate: float) -> None:
    found = found_of(explorer(), State(rate=rate, ttft=0, tpot=0))
    rows = {(r["layout"], r["batch"]): r for r in payload(explorer(), found.state)["grid"]["rows"]}
    for cell in found.cells:
        row = rows.get((cell.layout.name, cell.concurrency))
        if row is None or cell.kv_limited:
            continue
        carried = cell.layout.replicas * cell.metrics["output_tok_s"].value / found.state.osl
        assert row["short"].endswith("requests/s") == (carried < rate)


def test_the_answer_at_a_rate_carries_it_or_says_how_many_nodes_do() -> None:
    enough = payload(explorer(), State(rate=2.0))["answers"][0]
    assert [c["met"] for c in enough["chips"] if "requests/s" in c["text"]] == ["met"]
    short = payload(explorer(), State(rate=20.0))["answers"][0]
    assert not short["found"]
    (chip,) = [c for c in short["chips"] if "requests/s" in c["text"]]
    most = chip["detail"].split()[2]
    assert short["title"] == "Not enough for 20 requests/s"
    assert f"at most {most} requests/s within the bounds" in short["why"]
    assert f"20 requests/s need {math.ceil(20.0 / float(most))} such nodes" in short["why"]
    # the bounds are met there: only the rate is not
    assert {c["met"] for c in short["chips"] if c is not chip} <= {"met", "within"}


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
    assert any("E2E latency: mean error 9.1 % (n=3)" in line for line in found["beside"])
    assert "measured" in {r["role"] for r in found["chart"]["rows"]}


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
