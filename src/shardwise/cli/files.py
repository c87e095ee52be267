"""Output of commands: files and lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.errors import InputError, printable

if TYPE_CHECKING:
    from shardwise.api.result import Result
    from shardwise.reports.table import Table

WIDE_KEY: Final = "shardwise.wide"  #: whether the running command was given --wide


def require_writable(path: Path) -> None:
    """Raise InputError unless a file can be written at `path`; called before the work starts."""
    folder = path.parent
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or pipe
        if not os.access(path, os.W_OK):
            raise InputError(f"cannot write to {path}: no permission")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{path.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    if path.is_dir():
        raise InputError(f"{path} is a folder", "allowed: a file name")


def show_progress(what: str, done: int, total: int) -> None:
    """Print one line of progress on stderr, updated in place; nothing when piped."""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        click.echo(f"\r\033[K{what} ({done}/{total}){end}", err=True, nl=False)


def say(text: str) -> None:
    """Print lines on stdout without terminal control characters."""
    for line in text.split("\n"):
        click.echo(printable(line))


def say_prose(text: str) -> None:
    """Print sentences on stdout, wrapped between words to the terminal's width."""
    from shardwise.reports.table_text import paragraph, terminal_width

    width = terminal_width() if sys.stdout.isatty() else None
    for line in text.split("\n"):
        say("\n".join(paragraph(line, width)))


def show_table(table: Table) -> None:
    """Print `table` and a blank line, in full with --wide, else as wide as the terminal."""
    sys.stdout.write(rendered(table) + "\n")


def show_tables(found: Result) -> None:
    """Print every table of a result, as `show_table` does."""
    for table in found.tables():
        show_table(table)


def rendered(table: Table) -> str:
    """Return `table` as `show_table` prints it."""
    from shardwise.reports.table_text import is_coloured, render, terminal_width

    context = click.get_current_context(silent=True)
    wide = context is not None and context.meta.get(WIDE_KEY, False)
    return render(table, None if wide else terminal_width(), colour=is_coloured(sys.stdout))


def print_json(kind: str, answer: Mapping[str, Any]) -> None:
    """Print one JSON document: `answer` with its kind and the schema version."""
    from shardwise.reports.documents import as_json, document

    sys.stdout.write(as_json(document(kind, answer)) + "\n")


def print_result(found: Result) -> None:
    """Print a result's JSON document."""
    sys.stdout.write(found.to_json() + "\n")


def write_result(found: Result, output: Path) -> None:
    """Write a result's JSON document to a file atomically."""
    from shardwise.reports.files import write_bytes

    write_bytes(output, found.to_json().encode() + b"\n")
