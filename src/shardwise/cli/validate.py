"""`shardwise validate`: compare predictions with measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardwise.cli.files import print_result, show_progress, show_tables, write_result
from shardwise.cli.options import CATALOGUE, JSON, NODE, PROFILE, WIDE
from shardwise.cli.rows import report_problems, report_unused_of

if TYPE_CHECKING:
    from shardwise.api.accuracy import Validation


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@PROFILE
@NODE
@CATALOGUE
@click.option("--use", default="", help="Use only rows with this value in the 'use' column.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write files to.")
@WIDE
@JSON
def validate(
    rows: Path,
    profile: str,
    node_file: Path | None,
    catalogue_files: tuple[Path, ...],
    use: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare predictions with the measured ROWS of a CSV file.

    Prints error, bias and interval coverage by GPU, model, TP and batch, and whether the TP with
    the best measurement is the one predicted to be best. With --node, rows of its GPU are predicted
    on its links and memory.
    """
    from shardwise.api.accuracy import validate as compare_rows
    from shardwise.reports.files import prepare_folder

    if output:
        prepare_folder(output)
    found = compare_rows(
        rows, profile=profile, use=use, catalogue_files=catalogue_files, node_file=node_file
    )
    report_unused_of(rows)
    report_problems(found.problems)
    if as_json:
        print_result(found)
    else:
        show_tables(found)
        if found.kv_limited_marked:
            recognised = f"{found.kv_limited_found} of {found.kv_limited_marked}"
            click.echo(f"KV-limited rows recognised: {recognised}")
    if output:
        _write(found, output)
        click.echo(f"wrote {output}/", err=True)


def _write(found: Validation, folder: Path) -> None:
    from shardwise.reports.figures import save
    from shardwise.reports.files import write_csv

    write_result(found, folder / "validation.json")
    tables = found.tables()
    for done, table in enumerate(tables, start=1):
        show_progress("tables", done, len(tables))
        write_csv(folder / f"{table.name}.csv", table)
    for name, figure in found.charts().items():
        save(figure.chart, folder, name)
