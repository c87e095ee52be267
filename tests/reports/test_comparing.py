"""`report --vs`: the same question on other GPUs, one chart and one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shardwise.cli.report import report as report_command
from shardwise.cli.study import study as study_command
from shardwise.errors import InputError, UnknownNameError
from shardwise.reports.comparing import checked, compared_rows, compared_with, compared_words
from shardwise.reports.saved import read_study
from shardwise.web.asking import explorer
from shardwise.web.payload import payload
from shardwise.web.state import State


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("study")
    words = ["llama-3.1-70b", "--gpu", "h200", "--dtype", "bf16", "--ttft", "2s", "--tpot", "50ms"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("shardwise.reports.figures.save", lambda *_: [])  # seconds of drawing
        result = CliRunner().invoke(
            study_command, [*words, "-o", str(made)], catch_exceptions=False
        )
    assert result.exit_code == 0
    return made


def test_each_gpu_compared_has_the_explorers_numbers(folder: Path) -> None:
    rows = compared_rows(compared_with(read_study(folder), ["mi355x", "b200"]))
    state = State(gpu="h200", dtype="bf16", vs_gpu=("mi355x", "b200"))
    shown = payload(explorer(), state)["compare"]["rows"]
    assert [(r.name, r.layout, r.context, r.calibrated) for r in rows] == [
        (r["name"], r["layout"], r["context"], r["calibrated"]) for r in shown
    ]
    assert [[n.text for n in r.numbers] for r in rows] == [
        [n["text"] for n in r["numbers"]] for r in shown
    ]


def test_an_engine_that_was_measured_only_with_a_plugin_is_not_calibrated(folder: Path) -> None:
    h200, mi355x = compared_rows(compared_with(read_study(folder), ["mi355x"]))
    assert h200.calibrated.startswith("yes")
    assert mi355x.calibrated.startswith("no; all rows of this GPU and engine ran with a plugin")


def test_the_report_has_a_table_and_one_chart_of_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    given = [str(folder), "--vs", "mi355x,b200", "-o", str(out)]
    result = CliRunner().invoke(report_command, given, catch_exceptions=False)
    assert result.exit_code == 0
    page = out.read_text()
    assert len(page) < 3_000_000
    assert page.index('id="table-compared"') < page.index('id="frontier"') < page.index("ranking")
    for name in ("h200", "mi355x", "b200"):
        assert f"8 × {name}" in page[page.index('id="table-compared"') :]


def test_what_does_not_fit_is_a_row(folder: Path) -> None:
    rows = compared_rows(compared_with(read_study(folder), ["t4"]))
    assert rows[0].fits == "yes"
    assert rows[1].fits.startswith("no: ")
    assert rows[1].numbers == ()


def test_the_words_name_the_cheapest_and_whether_intervals_overlap(folder: Path) -> None:
    sides = compared_with(read_study(folder), ["mi355x"])
    costs = [s.answer.shown.cost for s in sides if s.answer and s.answer.shown]
    words = compared_words(sides)
    cheapest = min(range(2), key=lambda i: costs[i].value)
    assert words.startswith(f"Cheapest tokens: {sides[cheapest].name}, ")
    low, high = sorted(costs, key=lambda c: c.value)
    assert ("do not overlap" in words) == (low.hi < high.lo)


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="h2000"):
        checked(["h2000"])
    with pytest.raises(InputError, match="up to 3"):
        checked(["h200", "b200", "mi300x", "mi355x"])
