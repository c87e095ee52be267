"""`shardwise bench show` and `export`: print or export a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardwise.cli.options import JSON, WIDE
from shardwise.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from shardwise.evidence.measured import Measured
    from shardwise.evidence.store import Store

STORE = click.argument("store", type=click.Path(path_type=Path))
STUDY = click.option("--study", default="", help="Name of one study of the store; default: all.")


def _cells(store: Store, study: str) -> list[Measured]:
    if study and study not in store.studies():
        raise UnknownNameError("study", study, store.studies())
    found = store.cells(study or None)
    if not found:
        raise InputError(f"{store.path} contains no cells")
    return found


@click.command()
@STORE
@STUDY
@WIDE
@JSON
def show(store: Path, study: str, as_json: bool) -> None:
    """Show the cells of STORE by study, and the change of each TP step."""
    from shardwise.cli.bench_options import show_cells
    from shardwise.evidence.store import open_store

    with open_store(store, create=False) as opened:
        cells = _cells(opened, study)
        names = [name for name in opened.studies() if not study or name == study]
    if as_json:
        show_cells(cells, as_json)
        return
    for name in names:
        click.echo(f"{name}\n")
        show_cells([cell for cell in cells if cell.study == name], as_json=False)
        click.echo()


@click.command()
@STORE
@STUDY
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write: .csv, .json or .parquet.",
)
def export(store: Path, study: str, output: Path) -> None:
    """Write the cells of STORE as JSON, Parquet, or CSV rows for validate and calibrate."""
    from shardwise.cli.files import require_writable
    from shardwise.evidence.export import FORMATS, write
    from shardwise.evidence.store import open_store

    if output.suffix not in FORMATS:
        raise InputError(f"{output}", f"allowed: a name ending in {', '.join(FORMATS)}")
    require_writable(output)
    with open_store(store, create=False) as opened:
        cells = _cells(opened, study)
    written = write(cells, output)
    left_out = len(cells) - written
    click.echo(f"wrote {written} cells to {output}", err=True)
    if left_out:
        click.echo(f"skipped {left_out}: client-bound, or no request completed", err=True)
