"""A table as text: coloured in a terminal as it has the width for, plain when piped."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO
from typing import IO, TYPE_CHECKING, Final, Literal

from shardwise.errors import printable
from shardwise.evidence.record import Interval
from shardwise.reports.bars import bars
from shardwise.reports.table import INTERVALS, Cell, Column, Table, Tone

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table as RichTable
    from rich.text import Text

#: a tone is never the only sign: the text carries a mark as well
STYLES: Final[dict[Tone, str]] = {
    "plain": "",
    "better": "green",
    "worse": "red",
    "unclear": "dim",
    "reference": "italic cyan",
    "strong": "bold",
}
LONGEST: Final = 400  #: characters of any text in a terminal; names come from strangers' files
BAR_WIDTH: Final = 24
PLAIN_WIDTH: Final = 10_000  #: a piped table is as wide as its content


Details = Literal["beside", "below", "left out"]


def show(table: Table, stream: IO[str]) -> None:
    """Write `table` to `stream`, coloured in a terminal (NO_COLOR is respected), else plain."""
    from rich.console import Console

    console = Console(file=stream)
    if not console.is_terminal:
        stream.write(plain(table) + "\n")
        return
    console.print(drawn(table, console))
    console.print()


def drawn(table: Table, console: Console) -> Group:
    """`table` as Rich draws it on `console`: as much of it as the width holds."""
    from rich.console import Group
    from rich.text import Text

    table = _safe(table)
    details = _details_that_fit(table, console)
    barred = _with_bars(table)
    if _needs(barred, details, one_line=True) <= console.width:
        table = barred
    parts: list[RichTable | Text] = [Text(table.title, style="bold")]
    if table.rows:
        parts.append(_rich(table, details, width=console.width))
    for note in table.notes:
        left_out = note == INTERVALS and details == "left out"
        note_shown = "left out for want of width: 80 % intervals" if left_out else note
        parts.append(Text(f"  {note_shown}", style="dim"))
    return Group(*parts)


def plain(table: Table) -> str:
    """`table` as aligned text without colour, control characters or trailing spaces."""
    from rich.console import Console

    table = _with_bars(_safe(table))
    text = StringIO()
    console = Console(file=text, width=PLAIN_WIDTH, color_system=None, force_terminal=False)
    if table.rows:
        console.print(_rich(table, "beside"))
    body = [line.rstrip() for line in text.getvalue().strip("\n").splitlines()]
    while body and not body[0]:
        del body[0]
    return "\n".join([table.title, *body, *(f"  {note}" for note in table.notes), ""])


def _safe(table: Table) -> Table:
    """`table` with nothing in it that a terminal would obey."""

    def shown(text: str) -> str:
        return printable(text, LONGEST)

    return replace(
        table,
        title=shown(table.title),
        notes=tuple(map(shown, table.notes)),
        columns=tuple(replace(c, title=shown(c.title)) for c in table.columns),
        sections=tuple(
            tuple(
                tuple(replace(c, text=shown(c.text), detail=shown(c.detail)) for c in row)
                for row in section
            )
            for section in table.sections
        ),
    )


def _with_bars(table: Table) -> Table:
    """`table` with a last column of bars, where it names the column to draw."""
    at = next((i for i, c in enumerate(table.columns) if c.name == table.bar), None)
    if at is None:
        return table
    drawn = iter(bars([_size(row[at].value) for row in table.rows], BAR_WIDTH))
    return replace(
        table,
        columns=(*table.columns, Column("", "", align="left")),
        sections=tuple(
            tuple((*row, Cell(next(drawn))) for row in section) for section in table.sections
        ),
    )


def _size(value: Interval | float | str | None) -> float:
    if isinstance(value, Interval):
        return value.value
    return float(value) if isinstance(value, (int, float)) else math.nan


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
        return max(map(len, column.heading.splitlines() + shown), default=0)
    words = [word for text in shown for word in text.split()]
    return max(
        map(len, column.heading.split() + (shown if column.align == "right" else words)), default=0
    )


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
