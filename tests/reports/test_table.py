from __future__ import annotations

import io
import re

import pytest

from shardwise.evidence.record import Interval
from shardwise.reports.table import INTERVALS, Cell, Column, Table, markdown, text_cell
from shardwise.reports.table_text import plain, show
from shardwise.reports.tables import study_table, transitions_table
from shardwise.study.grid import Grid
from shardwise.study.transitions import transitions

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def table() -> Table:
    interval = Interval(12.3, 11.0, 13.9)
    return Table(
        name="t",
        title="Title",
        columns=(Column("name", "name", align="left"), Column("latency", "latency_s", "s")),
        sections=(
            ((text_cell("a|b"), Cell("12.3", interval, "better", "(11.0–13.9)")),),
            ((text_cell("c"), Cell("–")),),
        ),
        notes=(INTERVALS,),
    )


def in_terminal(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    show(table, stream)
    return stream.getvalue()


def test_a_piped_table_is_aligned_text_without_control_characters(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    stream = io.StringIO()
    show(table, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Title"
    assert "\x1b" not in stream.getvalue()
    assert all(line == line.rstrip() for line in lines)
    a, c = (next(line for line in lines if word in line) for word in ("a|b", " c "))
    assert a.endswith("12.3 (11.0–13.9)")
    assert len(c) == len(a)  # the dash is right-aligned under the number
    assert plain(table).startswith("Title\n")


def test_a_terminal_gets_colour(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m12.3" in in_terminal(table, 80, monkeypatch)  # green


def test_no_color_is_respected(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", in_terminal(table, 80, monkeypatch))


def test_bounds_go_below_and_then_away_as_the_terminal_narrows(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, narrow, least = (
        ESCAPE.sub("", in_terminal(table, width, monkeypatch)) for width in (40, 24, 15)
    )
    assert "12.3 (11.0–13.9)" in wide
    assert "12.3 (11.0–13.9)" not in narrow
    assert "(11.0–13.9)" in narrow
    assert "(11.0–13.9)" not in least
    assert "left out for want of width" in " ".join(least.split())


@pytest.mark.parametrize("width", [80, 92, 110, 121, 200])
def test_every_number_stays_whole_at_usual_widths(
    grid: Grid, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (study_table(grid), transitions_table(transitions(grid))):
        shown = ESCAPE.sub("", in_terminal(table, width, monkeypatch))
        assert all(len(line) <= width for line in shown.splitlines())
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                assert column.align == "left" or cell.text in shown


def test_a_table_without_rows_is_its_title_and_notes() -> None:
    empty = Table("t", "Nothing found", (Column("a", "a"),), ((),), ("checked",))
    assert plain(empty) == "Nothing found\n  checked\n"


def test_markdown_escapes_bars_and_aligns_numbers_right(table: Table) -> None:
    lines = markdown(table).splitlines()
    assert lines[0] == "**Title**"
    assert lines[2:5] == [
        "| name | latency, s |",
        "| --- | ---: |",
        "| a\\|b | 12.3 (11.0–13.9) |",
    ]
