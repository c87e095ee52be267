"""Messages about skipped rows and unknown columns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import click

from shardwise.errors import printable
from shardwise.perfmodel.rows import OPTIONAL, REQUIRED, Problem, read_table, unused_columns

MAX_REPORTED = 20
MAX_NUMBERS = 3  #: row numbers shown per reason


def report_problems(problems: Sequence[Problem]) -> None:
    """Print on stderr which rows were skipped and why: one line per reason, with its count."""
    rows_of: dict[str, list[int]] = {}
    for problem in problems:
        rows_of.setdefault(problem.reason, []).append(problem.number)
    for reason, rows in list(rows_of.items())[:MAX_REPORTED]:
        click.echo(f"{_numbered(rows)}: {reason}", err=True)
    if len(rows_of) > MAX_REPORTED:
        click.echo(f"… and {len(rows_of) - MAX_REPORTED} more reasons", err=True)


def _numbered(rows: Sequence[int]) -> str:
    """`row 3`, or `12 rows (3, 4, 7, …)`."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    first = ", ".join(map(str, rows[:MAX_NUMBERS]))
    return f"{len(rows)} rows ({first}{', …' if len(rows) > MAX_NUMBERS else ''})"


def report_unused_of(path: Path) -> None:
    """Print on stderr which columns of a CSV file are unknown, with the nearest known names."""
    unused = unused_columns(read_table(path)[0])
    if not unused:
        return
    named = []
    for name in unused[:MAX_REPORTED]:
        near = difflib.get_close_matches(name.lower(), (*REQUIRED, *OPTIONAL), n=1, cutoff=0.7)
        shown = printable(name, 40) or "one column without a name"
        named.append(f"{shown} (did you mean {near[0]}?)" if near else shown)
    more = len(unused) - len(named)
    named += [f"and {more} more"] if more else []
    click.echo(f"columns not used: {', '.join(named)}", err=True)
