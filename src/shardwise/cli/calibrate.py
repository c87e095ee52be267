"""`shardwise calibrate`: fit a profile to measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shardwise.cli.files import (
    print_result,
    require_writable,
    say_prose,
    show_progress,
    show_table,
)
from shardwise.cli.options import CATALOGUE, JSON, NODE
from shardwise.cli.rows import report_problems, report_unused_of
from shardwise.errors import InputError


@click.command()
@click.argument("rows", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--export",
    "export",
    type=click.Path(path_type=Path),
    help="Also write the profile to a file for --profile on other machines, e.g. node.json.",
)
@click.option("--name", help="Name of your profile, for use with --profile.")
@click.option(
    "--profile", default="reference", show_default=True, help="Profile to start the fit from."
)
@click.option(
    "--collectives",
    type=click.Path(path_type=Path),
    help="File of all-reduce latencies; with --output, refits everything, not only your GPU and "
    "engine.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write a refitted profile to."
)
@click.option(
    "--force",
    is_flag=True,
    help="Save the whole correction even if held-out rows do not support it.",
)
@NODE
@CATALOGUE
@JSON
def calibrate(
    rows: tuple[Path, ...],
    export: Path | None,
    name: str | None,
    profile: str,
    collectives: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **files: Any,
) -> None:
    """Fit the performance model to the measured ROWS of CSV files.

    With --name, your rows change only the coefficients of your GPU and engine. The error before
    and after is cross-validated. --export writes the same profile as one file to share, including
    the rows, GPUs, versions and errors; it does not need --name. With --node, what the node's links
    explain is not corrected: give the same --node to predictions with the profile.

    With --collectives and --output, the whole hierarchy is fitted to the rows marked 'calibrate'.
    The bundled profile is made this way.
    """
    from shardwise.api.calibration import require_scipy

    require_scipy()
    if (name or export) and not output and not collectives and len(rows) == 1:
        _personal(rows[0], name, profile, export, force, as_json, **files)
    elif output and collectives and not name and not export and not any(files.values()):
        _reference(rows, collectives, output, as_json)
    else:
        raise InputError(
            "calibrate needs one file of rows with --name NAME or --export FILE, or "
            "--collectives FILE with --output FILE"
        )


def _personal(
    path: Path,
    name: str | None,
    base: str,
    export: Path | None,
    force: bool,
    as_json: bool,
    **files: Any,
) -> None:
    from shardwise.api.calibration import calibrate as fit

    of_file = _name_of(export) if export else ""
    if export:
        require_writable(export)
    report_unused_of(path)
    found = fit(
        path,
        name=name or of_file,
        profile=base,
        save=bool(name),
        force=force,
        progress=show_progress,
        **files,
    )
    report_problems(found.problems)
    if export:
        found.export(export)
    if as_json:
        print_result(found)
        return
    say_prose(found.summary())
    show_table(found.table())
    if name:
        click.echo(f"saved {found.path}; use it with --profile {name}")
    if export:
        click.echo(f"wrote {export}; use it on any machine with --profile {export.name}")


def _name_of(export: Path) -> str:
    """Return the profile's name from its file name. Raises InputError unless it ends in .json."""
    if export.suffix != ".json":
        raise InputError(f"--export {export}", "allowed: a name ending in .json")
    return export.stem.lower()


def _reference(paths: tuple[Path, ...], collectives: Path, output: Path, as_json: bool) -> None:
    from shardwise.api.calibration import fit_profile

    require_writable(output)
    for path in paths:
        report_unused_of(path)
    found = fit_profile(paths, collectives=collectives, progress=show_progress)
    report_problems(found.problems)
    found.save(output)
    if as_json:
        print_result(found)
        return
    click.echo(f"wrote {output}: {found.summary()}")
