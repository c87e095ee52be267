"""A table at any width: no line is wider, no number is cut, and what was left out is said."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.evidence.record import Interval
from shardwise.reports.bars import bar, bars, sparkline
from shardwise.reports.numbers import number, spread
from shardwise.reports.table import Cell, Column, Table, html, markdown, text_cell
from shardwise.reports.table_text import fit, paragraph, render

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=10), min_size=1, max_size=6).map(" ".join)
VALUES = st.floats(1e-3, 1e6)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    count = draw(st.integers(1, 8))
    columns = [Column(draw(WORDS), "name", align="left")]
    columns += [
        Column(draw(WORDS), f"n{i}", draw(st.sampled_from(["", "ms", "tok/s"])),
               optional=draw(st.integers(0, 2)))
        for i in range(count)
    ]  # fmt: skip
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        found = [
            Interval(v, 0.9 * v, 1.2 * v)
            for v in draw(st.lists(VALUES, min_size=count, max_size=count))
        ]
        rows.append(
            (
                text_cell(draw(WORDS)),
                *(Cell(number(i.value), i, "plain", "", spread(i)) for i in found),
            )
        )
    return Table("t", draw(WORDS), tuple(columns), (tuple(rows),))


def least(table: Table) -> int:
    """What the columns that are always shown need for their numbers and longest words."""
    total = 0
    for i, column in enumerate(table.columns):
        if column.optional and column.align == "right":
            continue
        words = [*column.title.split(), column.unit, *table.title.split()]
        texts = [row[i].text for row in table.rows]
        whole = [w for t in texts for w in t.split()] if column.align == "left" else texts
        total += max(12 if column.align == "left" else 0, *map(len, [*words, *whole])) + 2
    return total


@given(tables(), st.integers(40, 200))
@settings(deadline=None)
def test_no_line_is_wider_and_no_number_of_a_column_that_stays_is_cut(
    table: Table, width: int
) -> None:
    text = render(table, width)
    if least(table) <= width:
        assert max(map(len, text.splitlines())) <= width
    shown = fit(table, width)
    kept = [i for i, c in enumerate(table.columns) if c in shown.table.columns]
    for row in table.rows:
        assert all(row[i].text in text for i in kept if table.columns[i].align == "right")


@given(tables())
@settings(deadline=None)
def test_a_wider_terminal_never_shows_less_except_a_column_for_its_intervals(
    table: Table,
) -> None:
    """Optional columns give way to intervals, and come back where intervals do not fit at all."""
    found = [fit(table, width) for width in (40, 60, 80, 120, 200, 400)]
    shown = [(one.form == "spread", len(one.table.columns)) for one in found]
    assert shown == sorted(shown)
    assert fit(table, None).table.columns == table.columns
    assert fit(table, None).form == "bounds"


@given(tables(), st.integers(40, 120))
@settings(deadline=None)
def test_a_column_that_is_left_out_is_named(table: Table, width: int) -> None:
    found = fit(table, width)
    assert len(found.table.columns) + len(found.left_out) == len(table.columns)
    words = " ".join(render(table, width).split())
    for title in found.left_out:
        assert title in words


@given(tables())
@settings(deadline=None)
def test_markdown_and_html_hold_every_cell(table: Table) -> None:
    text, page = markdown(table), html(table)
    for row in table.rows:
        for cell in row:
            assert cell.text in text
            assert f">{cell.text}" in page
    assert page.count("<tr>") == 1 + len(table.rows)


@given(WORDS, st.integers(12, 60))
def test_a_paragraph_keeps_its_words_within_the_width(text: str, width: int) -> None:
    lines = paragraph(text, width)
    assert " ".join(lines).split() == text.split()
    assert max(map(len, lines)) <= width


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20), st.integers(1, 40))
def test_bars_are_as_long_as_their_share(values: list[float], width: int) -> None:
    drawn = bars(values, width)
    assert all(len(one) <= width for one in drawn)
    most = max(values)
    for value, one in zip(values, drawn, strict=True):
        assert bool(one) == (value > 0 and value / most > 0)
        if value == most and value > 0:
            assert one == "█" * width


def test_a_bar_is_drawn_to_an_eighth_and_a_sparkline_to_eight_heights() -> None:
    assert bar(0.5, 4) == "██"
    assert bar(0.5 + 1 / 32, 4) == "██▏"
    assert bar(1e-6, 4) == "▏"
    assert bar(float("nan"), 4) == ""
    assert sparkline([0, 7, float("nan"), 3.5]) == "▁█ ▅"
    assert sparkline([0.0, 0.0]) == "▁▁"
