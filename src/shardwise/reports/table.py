"""A table as data, and as Markdown. `table_text` writes it to terminals and pipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shardwise.evidence.record import Interval

Tone = Literal["plain", "better", "worse", "unclear", "reference", "strong"]
INTERVALS: Final = "in brackets: 80 % interval"  #: the note that explains `Cell.detail`


class Column(msgspec.Struct, frozen=True):
    """A heading with its unit as shown, and `name`, the heading in a CSV file (unit in it, SI).

    `optional` 0 is always shown; where the width is short, the largest are left out first. `note`
    explains the column below the table.
    """

    title: str
    name: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    optional: int = 0
    note: str = ""

    @property
    def heading(self) -> str:
        """The title, with the unit on a line of its own."""
        return f"{self.title}\n{self.unit}" if self.unit else self.title


class Cell(msgspec.Struct, frozen=True):
    """What is shown, and `value`, what a CSV file gets.

    `detail` stands after the text: an interval's bounds, as a rule. `spread` is the interval as
    `±13%` or, of a change, `±2.5`; it stands in for `detail` where width is short.
    """

    text: str
    value: Interval | float | str | None = None
    tone: Tone = "plain"
    detail: str = ""
    spread: str = ""


Row = tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True):
    """`sections` are groups of rows, set apart by a line; `name` is the stem of its file.

    `bar` names a column whose values are drawn as bars too, in text that has the width.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    sections: tuple[tuple[Row, ...], ...]
    notes: tuple[str, ...] = ()
    bar: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: a row of {len(row)} cells"

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The table's notes, then its columns'."""
        return (*self.notes, *(column.note for column in self.columns if column.note))

    def __str__(self) -> str:
        from shardwise.reports.table_text import render, terminal_width

        return render(self, terminal_width())

    def __repr__(self) -> str:
        return f"<Table {self.name!r}: {len(self.rows)} rows, {len(self.columns)} columns>"

    def _repr_html_(self) -> str:
        return html(self)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section)


def text_cell(value: str | int, tone: Tone = "plain") -> Cell:
    """A cell that shows its value as it is."""
    return Cell(str(value), value, tone)


def markdown(table: Table) -> str:
    """`table` as a Markdown table under its title in bold, the notes below."""
    columns = table.columns
    lines = [
        f"**{table.title}**",
        "",
        _markdown_row([c.heading.replace("\n", ", ") for c in columns]),
        _markdown_row(["---" if c.align == "left" else "---:" for c in columns]),
        *(_markdown_row([f"{c.text} {c.detail}".strip() for c in row]) for row in table.rows),
    ]
    return "\n".join([*lines, "", *(f"{note}  " for note in table.all_notes), ""])


def html(table: Table) -> str:
    """`table` as an HTML table with its title, the notes below."""
    from html import escape

    def cells(tag: str, texts: Sequence[str]) -> str:
        aligned = zip(table.columns, texts, strict=True)
        return "".join(
            f'<{tag} style="text-align: {c.align}">{escape(text)}</{tag}>' for c, text in aligned
        )

    head = cells("th", [c.heading.replace("\n", ", ") for c in table.columns])
    body = "".join(
        f"<tr>{cells('td', [f'{c.text} {c.detail}'.strip() for c in row])}</tr>"
        for row in table.rows
    )
    notes = "".join(f"<br><small>{escape(note)}</small>" for note in table.all_notes)
    return (
        f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table><p>{notes.removeprefix('<br>')}</p>"
    )


def _markdown_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"
