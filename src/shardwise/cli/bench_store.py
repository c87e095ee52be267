"""`shardwise bench show` and `export`: print or export a store."""

from __future__ import annotations

from pathlib import Path

import click

from shardwise.cli.options import JSON, WIDE
from shardwise.errors import InputError

STORE = click.argument("store", type=click.Path(path_type=Path))
STUDY = click.option("--study", default="", help="Name of one study of the store; default: all.")


@click.command()
@STORE
@STUDY
@WIDE
@JSON
def show(store: Path, study: str, as_json: bool) -> None:
    """Show the cells of STORE by study, and the change of each TP step."""
    from shardwise.api.measurements import Measurements, load_bench
    from shardwise.cli.bench_options import show_measurements

    found = load_bench(store, study=study)
    if as_json:
        show_measurements(found, as_json)
        return
    for name in dict.fromkeys(cell.study for cell in found.cells):
        click.echo(f"{name}\n")
        cells = [cell for cell in found.cells if cell.study == name]
        show_measurements(Measurements(cells), as_json=False)
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
    from shardwise.api.measurements import load_bench
    from shardwise.cli.files import require_writable
    from shardwise.evidence.export import FORMATS, why_not_a_row
    from shardwise.evidence.measured import count_reasons

    if output.suffix not in FORMATS:
        raise InputError(f"{output}", f"allowed: a name ending in {', '.join(FORMATS)}")
    require_writable(output)
    found = load_bench(store, study=study)
    written = found.export(output)
    click.echo(f"wrote {written} cells to {output}", err=True)
    if written < len(found.cells):
        reasons = count_reasons(map(why_not_a_row, found.cells))
        click.echo(f"skipped: {reasons}", err=True)
