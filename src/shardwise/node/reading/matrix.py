"""Parse matrices of device pairs in the pasted output of any tool.

A header line names the columns. Each row starts with a device and has one cell per column. Header
and rows may be wrapped, indented, prefixed by a logger, truncated, or lack blanks between cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from shardwise.node.reading.text import Line, Problem

GPU: Final = r"GPU\d+"
BUS_ID: Final = r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]"
_DEVICE: Final = re.compile(rf"(?:{GPU}|{BUS_ID})")
#: Columns after the device columns of `nvidia-smi topo -m`, with or without blanks between them.
_TAIL: Final = re.compile(r"CPU\s*Affinity|NUMA\s*Affinity|GPU\s*NUMA\s*ID", re.IGNORECASE)
#: Cells of a table of links or peer access (NVIDIA), and of AMD's tables.
NVIDIA_CELL: Final = re.compile(r"NV\d+|NODE|PIX|PXB|PHB|SYS|SOC|OK|CNS|GNS|TNS|NS|DR|N/A|X|U")
AMD_CELL: Final = re.compile(r"XGMI|PCIE|SELF|ENABLED|DISABLED|UNKNOWN|True|False|N/A|\d+")
_NIC_ROW: Final = re.compile(r"^\s*(?:NIC\d+|mlx\w+)\b")
_TAIL_ENDS: Final = ("ID", "Affinity", "NUMA ID")
#: The affinity columns of a row, wrapped to a separate line.
_AFFINITY: Final = re.compile(r"^\s*(?=\S)(?:[\d,-]+\s*)*(?:N?/?A)?\s*$")
_MAX_WRAPS: Final = 4  #: maximum number of lines of a wrapped row
#: Columns, affinity columns, and the text they were read from.
Header = tuple[tuple[str, ...], tuple[str, ...], str]


class Row(msgspec.Struct, frozen=True):
    """The cells of one row in column order, and the text after them."""

    line: int
    cells: tuple[str, ...]
    rest: str  #: text after the device cells, with tabs


class Matrix(msgspec.Struct, frozen=True):
    """A table of device pairs. `columns` are devices and NICs; `rows` are by device."""

    title: str  #: the nearest heading or command above it
    line: int  #: of the header, or of the first row if there is no header
    columns: tuple[str, ...]
    tail: tuple[str, ...]  #: affinity columns in the header, normalised
    rows: Mapping[str, Row]
    problems: tuple[Problem, ...] = msgspec.field(default=())
    header: str = ""

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices in the order of the columns, or of the rows if the header is missing."""
        return tuple(c for c in self.columns if _DEVICE.fullmatch(c))

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Yield row, column and cell of each cell that was read."""
        for name, row in self.rows.items():
            for column, cell in zip(self.columns, row.cells, strict=False):
                yield name, column, cell


def matrices(lines: Sequence[Line], is_title: re.Pattern[str]) -> tuple[Matrix, ...]:
    """Return every matrix in `lines`; `is_title` matches lines that describe the next table."""
    found, title, at = [], "", 0
    while at < len(lines):
        line = lines[at]
        if is_title.search(line.text):
            title = line.text
        made = _matrix_at(lines, at, title, is_title)
        if made is None:
            at += 1
            continue
        matrix, at = made
        found.append(matrix)
    return tuple(found)


def _matrix_at(
    lines: Sequence[Line], at: int, title: str, is_title: re.Pattern[str]
) -> tuple[Matrix, int] | None:
    """Return the matrix that starts at `at` and the index after it; None if there is none."""
    begun = _header_at(lines, at)
    if begun is None:
        return _without_header(lines, at, title, is_title)
    (columns, tail, text), following = begun
    while following < len(lines) and (more := _longer_header(text, lines[following].text)):
        columns, tail, text = more
        following += 1
    start = _first_row(lines, following, columns)
    if start is None:
        return None
    pattern = _cell_pattern(lines[start].text)
    assert pattern is not None
    rows, problems, end = _rows(lines, start, columns, pattern, is_title, tail)
    missing = [c for c in columns if _DEVICE.fullmatch(c) and c not in rows]
    if missing:
        last = max(row.line for row in rows.values())
        what = missing[0] if len(missing) == 1 else f"{missing[0]} to {missing[-1]}"
        problems.append(Problem(last, f"the matrix ends here: no row of {what}"))
    matrix = Matrix(title, lines[at].number, columns, tail, rows, tuple(problems), text)
    return matrix, end


def _without_header(
    lines: Sequence[Line], at: int, title: str, is_title: re.Pattern[str]
) -> tuple[Matrix, int] | None:
    """Return a table of links without its header, detected by GPU0's X in the first column."""
    if not re.match(r"^\W*GPU0[\s|]+X\b", lines[at].text):
        return None
    labels: list[str] = []
    for line in lines[at:]:
        start = _row_start(line.text)
        if start is None or start[0] != f"GPU{len(labels)}":
            break
        labels.append(start[0])
    rows, problems, end = _rows(lines, at, tuple(labels), NVIDIA_CELL, is_title)
    return Matrix(title, lines[at].number, tuple(labels), (), rows, tuple(problems)), end


def _header_at(lines: Sequence[Line], at: int) -> tuple[Header, int] | None:
    """Return the header at `at` and the index after it; words cut by wrapping are joined."""
    text = lines[at].text
    if _DEVICE.search(text) is None or _row_start(text) is not None:
        return None
    for following in range(at + 1, min(at + _MAX_WRAPS, len(lines) + 1)):
        found = _header(text)
        if found is not None:
            return found, following
        if following == len(lines) or _row_start(lines[following].text) is not None:
            return None
        text += lines[following].text
    return None


def _header(text: str) -> Header | None:
    """Return the columns and affinity columns of a header; None for any other line."""
    first = _DEVICE.search(text)
    if first is None or _row_start(text) is not None:
        return None
    names, tail = _columns(text[first.start() :])
    devices = [n for n in names if _DEVICE.fullmatch(n)]
    alone = len(devices) == 1 and not tail
    if len(set(devices)) != len(devices) or alone or len(names) - len(devices) > 64:
        return None
    others = [n for n in names if n not in devices]
    return (names, tail, text) if all(map(_looks_like_nic, others)) else None


def _columns(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return device and NIC columns, split where blanks are missing, and the affinity columns."""
    behind = _TAIL.search(text)
    named = text[: behind.start()] if behind else text
    split = re.sub(rf"({GPU}|NIC\d+|{BUS_ID})(?=[^\s\d])", r"\1 ", named)
    tail = [re.sub(r"\s+", " ", name).lower() for name in _TAIL.findall(text)]
    return tuple(split.replace("|", " ").split()), tuple(tail)


def _looks_like_nic(name: str) -> bool:
    return bool(re.fullmatch(r"NIC\d+|[a-z][a-z]*\w*_?\d+", name))


def _longer_header(text: str, following: str) -> Header | None:
    """Return the header `text` joined with the line below; None if that line is not part of it.

    The header may be cut between words or within one.
    """
    if not following.strip() or _row_start(following) is not None:
        return None
    own = _header(text)
    assert own is not None
    read = [_header(whole) for whole in (f"{text} {following}", text + following)]
    longest = max((found for found in read if found), key=_num_columns, default=own)
    if _num_columns(longest) > _num_columns(own):
        return longest
    # the name of an affinity column may be wrapped: "GPU NUMA" / "ID"
    return (*own[:2], f"{text} {following}") if following.strip() in _TAIL_ENDS else None


def _num_columns(header: Header) -> int:
    return len(header[0]) + len(header[1])


def _row_start(text: str) -> tuple[str, str] | None:
    """Return a row's device and the text after it; None if `text` does not start a row."""
    found = _DEVICE.search(text)
    if found is None:
        return None
    rest = text[found.end() :]
    if not re.match(r"[\s|X]", rest) or _cell_pattern(text) is None:
        return None
    return found[0], rest


def _cell_pattern(row: str) -> re.Pattern[str] | None:
    """Return the pattern that matches the cells of `row`; None if none does."""
    found = _DEVICE.search(row)
    words = row[found.end() :].replace("|", " ").split() if found else []
    if not words:
        return None
    for pattern in (NVIDIA_CELL, AMD_CELL):
        if _cut(words[0], pattern):
            return pattern
    return None


def _cut(word: str, pattern: re.Pattern[str]) -> list[str]:
    """Split `word` into cells, several if blanks are missing; empty if it is not a cell."""
    if pattern is AMD_CELL and word.isdigit():
        return [word]
    cells = pattern.findall(word)
    return cells if "".join(cells) == word else []


def _first_row(lines: Sequence[Line], at: int, columns: Sequence[str]) -> int | None:
    """Return the index of the first row, at most a few lines below the header."""
    for i in range(at, min(at + _MAX_WRAPS, len(lines))):
        start = _row_start(lines[i].text)
        if start and start[0] in columns:
            return i
    return None


def _rows(
    lines: Sequence[Line],
    at: int,
    columns: tuple[str, ...],
    pattern: re.Pattern[str],
    is_title: re.Pattern[str],
    tail: tuple[str, ...] = (),
) -> tuple[dict[str, Row], list[Problem], int]:
    rows: dict[str, Row] = {}
    problems: list[Problem] = []
    while at < len(lines):
        text = lines[at].text
        start = _row_start(text)
        bare = _DEVICE.fullmatch(text.strip())
        if start is None and bare and bare[0] in columns:
            start = bare[0], ""
        if is_title.search(text) or (start is None and _header(text)):
            break
        if start is None or start[0] not in columns or start[0] in rows:
            if start is not None and start[0] in rows:
                break  # the same table again, not part of this one
            at += 1
            continue
        number = lines[at].number
        cells, rest, at = _row(lines, at, start[1], len(columns), pattern)
        if tail and at < len(lines) and _AFFINITY.match(lines[at].text):
            rest, at = _whole_affinity(rest, lines[at].text, len(tail)), at + 1
        rows[start[0]] = Row(number, tuple(cells), rest)
        if len(cells) < len(columns):
            cut = f"row {start[0]} is cut off after {len(cells)} of {len(columns)} columns"
            problems.append(Problem(number, cut))
    return rows, problems, at


def _whole_affinity(rest: str, following: str, count: int) -> str:
    """Return the affinity columns of a row that was cut between or within them."""
    apart, together = f"{rest} {following}", rest + following
    within = not rest[-1:].isspace() and not following[:1].isspace()
    return together if within and len(apart.split()) > count else apart


def _row(
    lines: Sequence[Line], at: int, text: str, count: int, pattern: re.Pattern[str]
) -> tuple[list[str], str, int]:
    """Return the cells of the row at `at`, the text after them, and the index after the row.

    A short row continues in the lines below as long as they contain only cells.
    """
    cells, rest = _cells(text, count, pattern)
    for wraps in range(1, _MAX_WRAPS):
        following = at + wraps
        if len(cells) >= count or following >= len(lines):
            return cells, rest, at + wraps
        more = lines[following].text
        if not more.strip() or _DEVICE.search(more) or _NIC_ROW.match(more):
            return cells, rest, following
        joined = [_cells(text + gap + more, count, pattern) for gap in (" ", "")]
        best = max(joined, key=lambda read: len(read[0]))
        if len(best[0]) <= len(cells):
            return cells, rest, following
        (cells, rest), text = best, f"{text} {more}"
    return cells, rest, at + _MAX_WRAPS


def _cells(text: str, count: int, pattern: re.Pattern[str]) -> tuple[list[str], str]:
    """Return up to `count` cells at the start of `text`, and the rest."""
    cells: list[str] = []
    end = 0
    for word in re.finditer(r"[^\s|]+", text):
        if len(cells) >= count:
            break
        found = _cut(word[0], pattern)
        if not found or len(cells) + len(found) > count:
            break
        cells += found
        end = word.end()
    return cells, text[end:]
