from __future__ import annotations

import io

import pytest
from msgspec.structs import replace

from shardwise.evidence.record import Interval
from shardwise.reports.table import INTERVALS, Cell, Column, Table, markdown, text_cell
from shardwise.reports.table_text import is_coloured, render


@pytest.fixture
def table() -> Table:
    interval = Interval(12.3, 11.0, 13.9)
    return Table(
        name="t",
        title="Title",
        columns=(Column("name", "name", align="left"), Column("latency", "latency_s", "s")),
        sections=(
            ((text_cell("a|b"), Cell("12.3", interval, "better", "(11.0–13.9)", "±13%")),),
            ((text_cell("c"), Cell("–")),),
        ),
        notes=(INTERVALS,),
    )


def test_a_table_without_colour_is_aligned_text_without_control_characters(table: Table) -> None:
    text = render(table)
    lines = text.splitlines()
    assert lines[0] == "Title"
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in lines)
    (value,) = (line for line in lines if "a|b" in line)
    assert value.endswith("12.3 (11.0–13.9)")
    # the dash is right-aligned under the number
    (dash,) = (line for line in lines if line.startswith("c "))
    assert dash.index("–") == value.index("12.3") + 3


def test_colour_marks_the_tone(table: Table) -> None:
    assert "\x1b[32m12.3" in render(table, 80, colour=True)  # green


@pytest.mark.parametrize(
    ("variable", "coloured"), [("NO_COLOR", False), ("FORCE_COLOR", True), ("", False)]
)
def test_colour_follows_the_usual_variables(
    variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    assert is_coloured(io.StringIO()) is coloured


def test_bounds_become_a_spread_and_go_away_as_the_width_shrinks(table: Table) -> None:
    everything, narrow, least = render(table), render(table, 40), render(table, 14)
    assert "12.3 (11.0–13.9)" in everything
    assert "12.3 ±13%" in narrow
    assert "±: 80 % interval, its wider side" in narrow
    assert "±" not in least.replace("±: ", "")
    assert "not shown at this width: 80 % intervals" in " ".join(least.split())


def test_an_optional_column_is_left_out_before_an_interval(table: Table) -> None:
    more = replace(
        table,
        columns=(*table.columns, Column("remark", "remark", optional=1, note="remark: of a kind")),
        sections=tuple(tuple((*row, text_cell("12345")) for row in s) for s in table.sections),
    )
    shown = render(more, 20)
    assert "12.3 ±13%" in shown
    assert "12345" not in shown
    assert "remark: of a kind" not in " ".join(shown.split())
    assert "not shown at this width: remark" in " ".join(shown.split())
    assert "remark: of a kind" in render(more)


def test_text_wraps_by_words_and_numbers_do_not() -> None:
    columns = (Column("because", "because", align="left"), Column("value", "value"))
    row = (text_cell("the cache holds fewer sequences than asked"), text_cell("123,456"))
    lines = render(Table("t", "T", columns, ((row,),)), 30).splitlines()
    assert [line for line in lines if "123,456" in line] == ["the cache holds fewer  123,456"]
    assert max(map(len, lines)) <= 30


def test_wide_characters_take_two_columns() -> None:
    columns = (Column("model", "model", align="left"), Column("n", "n"))
    rows = ((text_cell("模型"), text_cell("1")), (text_cell("abcd"), text_cell("2")))
    first, second = render(Table("t", "T", columns, (rows,))).splitlines()[-2:]
    assert (first, second) == ("模型   1", "abcd   2")


def test_a_table_without_rows_is_its_title_and_notes() -> None:
    empty = Table("t", "Nothing found", (Column("a", "a"),), ((),), ("checked",))
    assert render(empty) == "Nothing found\n  checked\n"


def test_markdown_escapes_bars_and_aligns_numbers_right(table: Table) -> None:
    lines = markdown(table).splitlines()
    assert lines[0] == "**Title**"
    assert lines[2:5] == [
        "| name | latency, s |",
        "| --- | ---: |",
        "| a\\|b | 12.3 (11.0–13.9) |",
    ]
