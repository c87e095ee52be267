"""What commands say of rows that were left out, and of columns that nothing reads."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click

from shardwise.errors import printable
from shardwise.perfmodel.rows import OPTIONAL, REQUIRED, Problem, unused_columns

MAX_REPORTED = 20


def report_problems(problems: Sequence[Problem]) -> None:
    """Say on stderr which rows were left out, and why."""
    for problem in problems[:MAX_REPORTED]:
        click.echo(f"row {problem.number}: {problem.reason}", err=True)
    if len(problems) > MAX_REPORTED:
        click.echo(f"… and {len(problems) - MAX_REPORTED} more rows", err=True)


def report_unused(header: Sequence[str]) -> None:
    """Say on stderr which columns nothing reads, with the names that they may be meant for."""
    unused = unused_columns(header)
    if not unused:
        return
    named = []
    for name in unused[:MAX_REPORTED]:
        near = difflib.get_close_matches(name.lower(), (*REQUIRED, *OPTIONAL), n=1, cutoff=0.7)
        shown = printable(name, 40) or "one without a name"
        named.append(f"{shown} (did you mean {near[0]}?)" if near else shown)
    more = len(unused) - len(named)
    named += [f"and {more} more"] if more else []
    click.echo(f"columns not used: {', '.join(named)}", err=True)
