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
    console.print(_rich(table, details) if table.rows else table.title)
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
        console.print(_rich(table, "beside", titled=False))
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
    from rich.measure import Measurement

    unbounded = console.options.update(max_width=PLAIN_WIDTH)
    choices: tuple[Details, ...] = ("beside", "below")
    for details in choices:
        needed = Measurement.get(console, unbounded, _rich(table, details)).maximum
        if needed <= console.width:
            return details
    return "left out" if any(cell.detail for row in table.rows for cell in row) else "beside"


def _rich(table: Table, details: Details, *, titled: bool = True) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    made = RichTable(
        title=table.title if titled else None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, column in enumerate(table.columns):
        made.add_column(
            column.heading, justify=column.align, overflow="fold", min_width=_least_width(table, i)
        )
    for section in table.sections:
        for row in section:
            made.add_row(*(_rich_cell(cell, details) for cell in row))
        made.add_section()
    return made


def _least_width(table: Table, i: int) -> int:
    """Numbers and heading words stay whole; only text is wrapped."""
    column = table.columns[i]
    whole = column.heading.split()
    if column.align == "right":
        whole += [row[i].text for row in table.rows]
    return max(map(len, whole), default=0)


def _rich_cell(cell: Cell, details: Details) -> Text:
    from rich.text import Text

    text = Text(cell.text, style=STYLES[cell.tone])
    if cell.detail and details != "left out":
        text.append(" " if details == "beside" else "\n")
        text.append(cell.detail, style="dim")
    return text
