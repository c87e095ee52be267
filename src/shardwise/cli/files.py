"""What commands read and write: files, rows and lines."""

from __future__ import annotations

import csv
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from shardwise.errors import InputError, printable
from shardwise.perfmodel.rows import OPTIONAL, REQUIRED, Problem, unused_columns

MAX_REPORTED = 20


def require_writable(path: Path) -> None:
    """Raise InputError unless a file can be made at `path`; called before the work starts."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{path.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    if path.is_dir():
        raise InputError(f"{path} is a folder", "allowed: a file name")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(header), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


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


def show_progress(what: str, done: int, total: int) -> None:
    """One line of progress on stderr, rewritten in place in a terminal and absent when piped."""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        click.echo(f"\r\033[K{what} ({done}/{total}){end}", err=True, nl=False)


def say(text: str) -> None:
    """Lines on stdout, with nothing in them that a terminal would obey."""
    for line in text.split("\n"):
        click.echo(printable(line))


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def write_document(document: dict[str, Any], output: Path | None, as_json: bool) -> None:
    """A document to its file and, where asked, as JSON to stdout."""
    import msgspec

    if output is not None:
        from shardwise.reports.files import write_json

        write_json(output, document)
    if as_json:
        click.echo(msgspec.json.encode(document))
