"""A table as data, and its three forms: coloured in a terminal, plain when piped, Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import IO, TYPE_CHECKING, Final, Literal

from shardwise.evidence.record import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

Tone = Literal["plain", "better", "worse", "unclear", "reference", "strong"]
#: a tone is never the only sign: the text carries a mark as well
STYLES: Final[dict[Tone, str]] = {
    "plain": "",
    "better": "green",
    "worse": "red",
    "unclear": "dim",
    "reference": "italic cyan",
    "strong": "bold",
}
INTERVALS: Final = "in brackets: 80 % interval"  #: the note that explains `Cell.detail`
PLAIN_WIDTH: Final = 10_000  #: a piped table is as wide as its content


@dataclass(frozen=True)
class Column:
    """A heading with its unit as shown, and `name`, the heading in a CSV file (unit in it, SI)."""

    title: str
    name: str
    unit: str = ""
    align: Literal["left", "right"] = "right"

    @property
    def heading(self) -> str:
        return f"{self.title}\n{self.unit}" if self.unit else self.title


@dataclass(frozen=True)
class Cell:
    """What is shown, and `value`, what a CSV file gets.

    `detail` (an interval, as a rule) stands after the text, or below it where the terminal is
    narrow, or nowhere where it is narrower still.
    """

    text: str
    value: Interval | float | str | None = None
    tone: Tone = "plain"
    detail: str = ""


Row = tuple[Cell, ...]
Details = Literal["beside", "below", "left out"]


@dataclass(frozen=True)
class Table:
    """`sections` are groups of rows, set apart by a line; `name` is the stem of its file."""

    name: str
    title: str
    columns: tuple[Column, ...]
    sections: tuple[tuple[Row, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: a row of {len(row)} cells"

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for section in self.sections for row in section)


def text_cell(value: str | int, tone: Tone = "plain") -> Cell:
    """A cell that shows its value as it is."""
    return Cell(str(value), value, tone)


def show(table: Table, stream: IO[str]) -> None:
    """Write `table` to `stream`, coloured in a terminal (NO_COLOR is respected), else plain."""
    from rich.console import Console

    console = Console(file=stream)
    if not console.is_terminal:
        stream.write(plain(table) + "\n")
        return
    details = _details_that_fit(table, console)
    console.print(table.title, style="bold", markup=False, highlight=False)
    if table.rows:
        console.print(_rich(table, details, width=console.width))
    for note in table.notes:
        left_out = note == INTERVALS and details == "left out"
        note_shown = "left out for want of width: 80 % intervals" if left_out else note
        console.print(f"  {note_shown}", style="dim", markup=False, highlight=False)
    console.print()


def plain(table: Table) -> str:
    """`table` as aligned text without colour, control characters or trailing spaces."""
    from rich.console import Console

    text = StringIO()
    console = Console(file=text, width=PLAIN_WIDTH, color_system=None, force_terminal=False)
    if table.rows:
        console.print(_rich(table, "beside"))
    body = [line.rstrip() for line in text.getvalue().strip("\n").splitlines()]
    while body and not body[0]:
        del body[0]
    return "\n".join([table.title, *body, *(f"  {note}" for note in table.notes), ""])


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
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes), ""])


def _markdown_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _details_that_fit(table: Table, console: Console) -> Details:
    choices: tuple[Details, ...] = ("beside", "below")
    for details in choices:
        if _needs(table, details) <= console.width:
            return details
    return "left out" if any(cell.detail for row in table.rows for cell in row) else "beside"


def _needs(table: Table, details: Details, *, one_line: bool = False) -> int:
    """The least width in which numbers, words and, where shown, details stay whole.

    With `one_line`, that in which nothing at all is wrapped.
    """
    columns = range(len(table.columns))
    return sum(_least_width(table, i, details, one_line=one_line) + 2 for i in columns) + 1


def _rich(table: Table, details: Details, width: int = PLAIN_WIDTH) -> RichTable:
    """`table` for `width` columns: in one line a heading where that fits, else by words.

    Narrower than even that, Rich breaks wherever it must.
    """
    from rich import box
    from rich.table import Table as RichTable

    made = RichTable(
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    by_words = _needs(table, details) <= width < _needs(table, details, one_line=True)
    for i, column in enumerate(table.columns):
        numeric = column.align == "right"
        made.add_column(
            column.heading,
            justify=column.align,
            overflow="fold",
            width=_least_width(table, i, details) if by_words and numeric else None,
        )
    for section in table.sections:
        for row in section:
            made.add_row(*(_rich_cell(cell, details) for cell in row))
        made.add_section()
    return made


def _least_width(table: Table, i: int, details: Details, *, one_line: bool = False) -> int:
    column, cells = table.columns[i], [row[i] for row in table.rows]
    shown = [text for cell in cells for text in _lines(cell, details)]
    if one_line:
        return max(map(len, column.heading.splitlines() + shown))
    words = [word for text in shown for word in text.split()]
    return max(map(len, column.heading.split() + (shown if column.align == "right" else words)))


def _lines(cell: Cell, details: Details) -> list[str]:
    if not cell.detail or details == "left out":
        return [cell.text]
    return [f"{cell.text} {cell.detail}"] if details == "beside" else [cell.text, cell.detail]


def _rich_cell(cell: Cell, details: Details) -> Text:
    from rich.text import Text

    text = Text("\n".join(_lines(cell, details)), style=STYLES[cell.tone])
    if len(text) > len(cell.text):
        text.stylize("dim", len(cell.text))
    return text
