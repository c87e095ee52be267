"""A table as data, and as Markdown and HTML. `table_text` formats it for terminals and pipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shardwise.evidence.record import Interval

Tone = Literal["plain", "better", "worse", "unclear", "reference", "strong"]
INTERVALS: Final = "in brackets: 80 % interval"  #: the note that explains `Cell.detail`


class Column(msgspec.Struct, frozen=True):
    """A heading with its display unit, and `name`, the heading in CSV files (with its SI unit).

    Columns with `optional` 0 are always shown; if the width is short, those with the largest
    values are omitted first. `note` is a footnote of the column.
    """

    title: str
    name: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    optional: int = 0
    note: str = ""

    @property
    def heading(self) -> str:
        """The title, with the unit on a second line."""
        return f"{self.title}\n{self.unit}" if self.unit else self.title


class Cell(msgspec.Struct, frozen=True):
    """The displayed text, and `value` for CSV files.

    `detail` follows the text, usually an interval's bounds. `spread` is the interval as `±13%` or,
    for a change, `±2.5`; it replaces `detail` if the width is short.
    """

    text: str
    value: Interval | float | str | None = None
    tone: Tone = "plain"
    detail: str = ""
    spread: str = ""


Row = tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True):
    """`sections` are groups of rows separated by a line; `name` is the stem of its file.

    `bar` names a column that is also drawn as bars if the text is wide enough.
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
    """Return a cell that shows its value unchanged."""
    return Cell(str(value), value, tone)


def markdown(table: Table) -> str:
    """Format `table` as a Markdown table with its title in bold and the notes below."""
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
    """Format `table` as an HTML table with its title and the notes below."""
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
