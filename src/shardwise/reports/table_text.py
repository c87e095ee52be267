"""Format a table as text of a given width: coloured in a terminal, plain when piped.

Numbers are never cut or wrapped. If a table is too wide, text columns wrap by words, then
`Column.optional` columns and then intervals are omitted. `width=None` shows everything, one row
per line.
"""

from __future__ import annotations

import math
import os
import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import IO, Final, Literal

import msgspec
from msgspec.structs import replace

from shardwise.errors import printable
from shardwise.evidence.record import Interval
from shardwise.reports.bars import bars
from shardwise.reports.table import INTERVALS, Cell, Column, Table, Tone

#: SGR codes; the text also has a mark, so that colour is never the only sign
STYLES: Final[dict[Tone, str]] = {
    "plain": "",
    "better": "32",
    "worse": "31",
    "unclear": "2",
    "reference": "3;36",
    "strong": "1",
}
DIM: Final = "2"
LONGEST: Final = 400  #: limit of one text in characters; names come from untrusted files
BAR_WIDTH: Final = 24
LEAST_BAR: Final = 8  #: shorter ones tell little
PIPED_WIDTH: Final = 100  #: where neither a terminal nor COLUMNS says
GAP: Final = "  "  #: between columns
EASY_TEXT: Final = 24  #: a text column is wrapped to this before an optional column is left out
LEAST_TEXT: Final = 12
SPREAD: Final = "±: 80 % interval, its wider side"

#: Form of intervals: `12.3 (11.0–13.9)`, `12.3 ±13%`, or none.
Form = Literal["bounds", "spread", "bare"]


class Fitted(msgspec.Struct, frozen=True):
    """A table fitted to a width: its columns, their widths in characters, and the omitted
    columns."""

    table: Table
    form: Form
    widths: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def terminal_width() -> int:
    """Return COLUMNS or the terminal's width; `PIPED_WIDTH` if neither is known."""
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns


def is_coloured(stream: IO[str]) -> bool:
    """Return whether `stream` is a terminal with colour, respecting NO_COLOR and FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def render(table: Table, width: int | None = None, *, colour: bool = False) -> str:
    """Format `table` with its title and notes, without trailing spaces; ends in a newline.

    Args:
        table: The table to format.
        width: Maximum characters per line; None shows every column and interval, one row per line.
        colour: Whether to use terminal colours.
    """
    fitted = fit(_safe(table), width)
    lines = [_styled(line, "1", colour) for line in paragraph(fitted.table.title, width)]
    if fitted.table.rows:
        lines += _heading(fitted, colour)
        lines += _body(fitted, colour)
        lines += [""] if _notes(fitted) else []
    for note in _notes(fitted):
        lines += [_styled(line, DIM, colour) for line in paragraph(note, width, "  ")]
    return "\n".join([*lines, ""])


def fit(table: Table, width: int | None) -> Fitted:
    """Fit `table` to `width`."""
    if width is None:
        table = _with_bars(table)
        return Fitted(table, "bounds", _widths(table, "bounds", None))
    levels = sorted({c.optional for c in table.columns} | {0}, reverse=True)
    forms: tuple[Form, ...] = ("spread", "bare")
    for form in forms:
        for level in levels:
            shown, left_out = _without(table, level)
            if _least(shown, form, EASY_TEXT if level else LEAST_TEXT) > width:
                continue
            spare = width - sum(_widths(shown, form, None)) - _gaps(shown) - len(GAP)
            if spare >= LEAST_BAR:
                shown = _with_bars(shown, min(spare, BAR_WIDTH))
            return Fitted(shown, form, _widths(shown, form, width), left_out)
    shown, left_out = _without(table, 0)
    return Fitted(shown, "bare", _widths(shown, "bare", width), left_out)


def _without(table: Table, level: int) -> tuple[Table, tuple[str, ...]]:
    """Return `table` without columns whose `optional` is above `level`, and their titles."""
    kept = [i for i, column in enumerate(table.columns) if column.optional <= level]
    if len(kept) == len(table.columns):
        return table, ()
    shown = replace(
        table,
        columns=tuple(table.columns[i] for i in kept),
        sections=tuple(tuple(tuple(row[i] for i in kept) for row in s) for s in table.sections),
    )
    return shown, tuple(c.title for c in table.columns if c.optional > level)


def _gaps(table: Table) -> int:
    return len(GAP) * (len(table.columns) - 1)


def _is_text(column: Column) -> bool:
    return column.align == "left"


def _texts(table: Table, i: int, form: Form) -> list[str]:
    """Return the texts of a column, with values aligned if a spread follows."""
    cells = [row[i] for row in table.rows]
    parts = [_parts(cell, form) for cell in cells]
    after = max((_length(more) for _, more in parts), default=0)
    if not after:
        return [text for text, _ in parts]
    if _is_text(table.columns[i]):
        return [f"{text} {more}".rstrip() for text, more in parts]
    return [f"{text} {_padded(more, after, 'left')}" for text, more in parts]


def _parts(cell: Cell, form: Form) -> tuple[str, str]:
    """Return a cell's text and the text after it."""
    if form == "bounds" or not cell.spread:
        return cell.text, "" if form == "bare" else cell.detail
    return cell.text, cell.spread if form == "spread" else ""


def _column_least(table: Table, i: int, form: Form, least_text: int) -> int:
    """Return the width below which a number or a heading's word would be cut."""
    column, texts = table.columns[i], _texts(table, i, form)
    words = [*column.title.split(), column.unit]
    if not _is_text(column):
        return max(map(_length, [*words, *texts]))
    natural = max(map(_length, texts), default=0)
    longest = max((_length(word) for text in texts for word in text.split()), default=0)
    return max(*map(_length, words), min(natural, max(longest, least_text)))


def _least(table: Table, form: Form, least_text: int) -> int:
    columns = range(len(table.columns))
    return sum(_column_least(table, i, form, least_text) for i in columns) + _gaps(table)


def _widths(table: Table, form: Form, width: int | None) -> tuple[int, ...]:
    """Return the width of each column, narrowed so that a line fits `width`."""
    columns = range(len(table.columns))
    natural = [
        max(map(_length, [c.title, c.unit, *_texts(table, i, form)]))
        for i, c in enumerate(table.columns)
    ]
    if width is None or sum(natural) + _gaps(table) <= width:
        return tuple(natural)
    found = [_column_least(table, i, form, LEAST_TEXT) for i in columns]
    spare = width - sum(found) - _gaps(table)
    # text columns first, the narrowest first: a wrapped sentence adds several lines, a heading one
    order = sorted(columns, key=lambda i: (not _is_text(table.columns[i]), natural[i]))
    for i in order:
        more = max(min(natural[i] - found[i], spare), 0)
        found[i] += more
        spare -= more
    while spare < 0 and (widest := max(columns, key=lambda i: found[i])) is not None:
        if found[widest] <= LEAST_TEXT or not _is_text(table.columns[widest]):
            break  # narrower than its numbers: lines are longer than `width`
        found[widest] -= 1
        spare += 1
    return tuple(found)


def _heading(fitted: Fitted, colour: bool) -> list[str]:
    columns, widths = fitted.table.columns, fitted.widths
    wrapped = [
        [*_wrapped(column.title, width), *([column.unit] if column.unit else [])]
        for column, width in zip(columns, widths, strict=True)
    ]
    height = max(map(len, wrapped))
    padded = [[*([""] * (height - len(lines))), *lines] for lines in wrapped]
    aligns = [column.align for column in columns]
    lines = [
        GAP.join(map(_padded, parts, widths, aligns)).rstrip()
        for parts in zip(*padded, strict=True)
    ]
    rule = "─" * (sum(widths) + _gaps(fitted.table))
    return [*(_styled(line, "1", colour) for line in lines), rule]


def _body(fitted: Fitted, colour: bool) -> list[str]:
    table, form = fitted.table, fitted.form
    columns = range(len(table.columns))
    texts = [_texts(table, i, form) for i in columns]
    apart = any(len(section) > 1 for section in table.sections)
    lines: list[str] = []
    at = 0
    for section in table.sections:
        lines += [""] if apart and lines else []
        for row in section:
            lines += _row(fitted, row, [texts[i][at] for i in columns], colour)
            at += 1
    return lines


def _row(fitted: Fitted, row: Sequence[Cell], texts: Sequence[str], colour: bool) -> list[str]:
    columns, widths = fitted.table.columns, fitted.widths
    wrapped = [
        _wrapped(text, width) if _is_text(column) else [text]
        for column, text, width in zip(columns, texts, widths, strict=True)
    ]
    lines = []
    for k in range(max(map(len, wrapped))):
        cells = []
        for i, column in enumerate(columns):
            text = wrapped[i][k] if k < len(wrapped[i]) else ""
            padded = _padded(text, widths[i], column.align)
            cells.append(_coloured(padded, row[i], fitted.form) if colour else padded)
        lines.append(GAP.join(cells).rstrip())
    return lines


def _coloured(text: str, cell: Cell, form: Form) -> str:
    """Return a padded cell in its tone, with the text after its value dimmed."""
    value, after = _parts(cell, form)
    start = text.find(value) + len(value)
    if not after or value not in text:
        return _styled(text, STYLES[cell.tone], True)
    return _styled(text[:start], STYLES[cell.tone], True) + _styled(text[start:], DIM, True)


def _styled(text: str, codes: str, colour: bool) -> str:
    """Apply a style to `text` but not to the spaces around it."""
    shown = text.strip()
    if not (colour and codes and shown):
        return text
    return text.replace(shown, f"\x1b[{codes}m{shown}\x1b[0m", 1)


def _notes(fitted: Fitted) -> list[str]:
    """Return the notes of the table and its columns, for this form of intervals."""
    notes = [note for note in fitted.table.all_notes if note != INTERVALS]
    spread = any(cell.spread for row in fitted.table.rows for cell in row)
    bounded = spread or INTERVALS in fitted.table.notes
    hidden = list(fitted.left_out)
    if bounded and fitted.form == "bounds":
        notes.insert(0, INTERVALS)
    elif spread and fitted.form == "spread":
        notes.insert(0, SPREAD)
    elif spread:
        hidden.append("80 % intervals")
    if hidden:
        notes.append(f"not shown at this width: {', '.join(hidden)}; use --wide")
    return notes


def paragraph(text: str, width: int | None, indent: str = "") -> list[str]:
    """Wrap `text` to lines of at most `width` characters."""
    if width is None or len(indent) + _length(text) <= width:
        return [indent + text]
    inner = max(width - len(indent), LEAST_TEXT)
    return [
        indent + line
        for line in textwrap.wrap(text, inner, break_long_words=True, break_on_hyphens=False)
    ]


def _wrapped(text: str, width: int) -> list[str]:
    if _length(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, 1), break_on_hyphens=False) or [""]


def _padded(text: str, width: int, align: Literal["left", "right"]) -> str:
    space = " " * max(width - _length(text), 0)
    return text + space if align == "left" else space + text


def _length(text: str) -> int:
    """Return the display width of `text` in a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _safe(table: Table) -> Table:
    """Return `table` without terminal control characters."""

    def shown(text: str) -> str:
        safe = len(text) <= LONGEST and text.isascii() and text.isprintable()
        return text if safe else printable(text, LONGEST)

    def cell(c: Cell) -> Cell:
        return replace(c, text=shown(c.text), detail=shown(c.detail), spread=shown(c.spread))

    return replace(
        table,
        title=shown(table.title),
        notes=tuple(map(shown, table.notes)),
        columns=tuple(replace(c, title=shown(c.title)) for c in table.columns),
        sections=tuple(tuple(tuple(map(cell, row)) for row in s) for s in table.sections),
    )


def _with_bars(table: Table, width: int = BAR_WIDTH) -> Table:
    """Return `table` with a last column of bars, if it names a column to draw."""
    at = next((i for i, c in enumerate(table.columns) if c.name == table.bar), None)
    if at is None:
        return table
    drawn = iter(bars([_size(row[at].value) for row in table.rows], width))
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
