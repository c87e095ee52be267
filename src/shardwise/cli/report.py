"""`shardwise report`: a saved study as one HTML file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from shardwise.cli.files import require_writable


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HTML file.")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Measured evidence to lay beside: a file of `bench`, JSON or JSONL.",
)
def report(study: Path, output: Path, measured: Path | None) -> None:
    """STUDY, a folder that `shardwise study -o` wrote, as one file to read, print and forward.

    The file needs no network and no script.
    """
    from shardwise.reports.files import write_bytes
    from shardwise.reports.html.page import report_html
    from shardwise.reports.saved import read_evidence, read_study

    require_writable(output)
    found = read_study(study, read_evidence(measured) if measured else ())
    command = shlex.join(["shardwise", *sys.argv[1:]])
    page = report_html(found, command).encode()
    write_bytes(output, page)
    click.echo(f"{output}: {len(page) / 1e6:.2f} MB", err=True)
