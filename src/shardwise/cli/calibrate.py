"""`shardwise calibrate`: a profile from measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import click

from shardwise.cli.files import print_json, require_writable, show_progress
from shardwise.cli.options import JSON
from shardwise.cli.rows import report_problems, report_unused
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.perfmodel.build import Personal
    from shardwise.perfmodel.profiles import Profile
    from shardwise.perfmodel.rows import Row

#: between a measured column and its prediction, over the rows; a wrong unit is a factor of 1,000
MOST_APART: Final = 200.0


@click.command()
@click.argument("rows", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--export",
    "export",
    type=click.Path(path_type=Path),
    help="Write the profile to a file to share, which --profile takes: node.json.",
)
@click.option("--name", help="Name of your profile, used with --profile from then on.")
@click.option("--profile", default="reference", show_default=True, help="Profile to start from.")
@click.option(
    "--collectives",
    type=click.Path(path_type=Path),
    help="All-reduce latencies; with --output, fits everything anew instead of your pair alone.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File of a new profile.")
@JSON
def calibrate(
    rows: tuple[Path, ...],
    export: Path | None,
    name: str | None,
    profile: str,
    collectives: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Fit the performance model to the measured ROWS of CSV files.

    With --name, your rows move the coefficients of your own GPU and engine and leave the rest as
    it was; the error before and after is cross-validated. --export writes the same as one file
    to share, with the rows, GPUs, versions and errors in it, and needs no --name.

    With --collectives and --output, the whole hierarchy is fitted to the rows marked 'calibrate':
    that is how the bundled profile is made.
    """
    _need_scipy()
    if (name or export) and not output and not collectives and len(rows) == 1:
        _personal(rows[0], name, profile, export, as_json)
    elif output and collectives and not name and not export:
        _reference(rows, collectives, output, as_json)
    else:
        raise InputError(
            "calibrate needs one file of rows with --name NAME or --export FILE, or "
            "--collectives FILE with --output FILE"
        )


def _need_scipy() -> None:
    from importlib.util import find_spec

    if find_spec("scipy") is None:
        raise InputError("calibrate needs SciPy", remedy="pip install 'shardwise[calibrate]'")


def _rows(path: Path) -> list[Row]:
    from shardwise.perfmodel.predicting import usable_rows
    from shardwise.perfmodel.rows import Problem, read_table

    header, table = read_table(path)
    report_unused(header)
    good, problems = usable_rows(table)
    drafted = [Problem(r.number, "left out: its steps verify drafts") for r in good if r.drafted]
    report_problems([*problems, *drafted])
    return [row for row in good if row.drafted is None]


def _check_units(path: Path, base: Profile) -> None:
    """Raise InputError where a column is a thousand times what `base` predicts: its unit is
    another than its name says, and a fit would take it as it stands."""
    from shardwise.perfmodel.predicting import COLUMNS, predict_table
    from shardwise.perfmodel.rows import read_table

    table, _ = predict_table(read_table(path)[1], base)
    for predicted in COLUMNS:
        column = predicted.removeprefix("pred_")
        ratios = [float(c[column]) / float(c[predicted]) for c in table if _both(c, column)]
        middle = median(ratios) if ratios else 1.0
        if not 1.0 / MOST_APART < middle < MOST_APART:
            unit = {"ms": "milliseconds", "s": "seconds"}.get(column.rpartition("_")[2], "")
            raise InputError(
                f"{column} is {middle:,.4g} times what is predicted (median of {len(ratios)} rows)",
                f"needed: {'tokens a second' if 'tok' in column else unit}",
                "correct the column's unit",
            )


def _both(cells: Mapping[str, str], column: str) -> bool:
    return bool((cells.get(column) or "").strip() and cells[f"pred_{column}"])


def _personal(path: Path, name: str | None, base: str, export: Path | None, as_json: bool) -> None:
    from shardwise import metrics
    from shardwise.perfmodel.build import build_personal
    from shardwise.perfmodel.profiles import check_name, load_profile, save_profile

    of_file = _name_of(export) if export else ""
    called = check_name(name or of_file)
    if export:
        require_writable(export)
    start, rows = load_profile(base), _rows(path)
    _check_units(path, start)
    made = build_personal(rows, start, called, f"{path.name} on top of {start.name}", show_progress)
    if export:
        _export(export, made, rows)
    written = save_profile(made.profile) if name else export
    if as_json:
        errors = {"before_pct": made.before_pct, "after_pct": made.after_pct}
        print_json({"profile": called, "path": str(written), "rows": made.rows, **errors})
        return
    click.echo(f"{made.rows} rows; mean error, before and after (cross-validated):")
    for metric, before in made.before_pct.items():
        label = metrics.ALL[metric].label
        after = made.after_pct[metric]
        worse = "  worse: predict it with the profile you started from" if after > before else ""
        click.echo(f"  {label:18}  {before:6.1f} %  {after:6.1f} %{worse}")
    if name:
        click.echo(f"saved {written}; use it with --profile {name}")
    if export:
        click.echo(f"wrote {export}; use it anywhere with --profile {export.name}")


def _name_of(export: Path) -> str:
    """A profile's name from its file's. Raises InputError where the file is no .json."""
    if export.suffix != ".json":
        raise InputError(f"--export {export}", "allowed: a name ending in .json")
    return export.stem.lower()


def _export(path: Path, made: Personal, rows: Sequence[Row]) -> None:
    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.perfmodel.sharing import save_shared, shared

    save_shared(path, shared(made, rows, default_catalogue()))


def _reference(paths: tuple[Path, ...], collectives: Path, output: Path, as_json: bool) -> None:
    import msgspec

    from shardwise.perfmodel.build import build_reference
    from shardwise.perfmodel.fit_collectives import fit_lines, line_of

    require_writable(output)
    lines = [line_of(fitted) for fitted in fit_lines(collectives)]
    named = " and ".join(path.name for path in paths)
    provenance = f"rows marked 'calibrate' of {named} over kernel tables (docs/kernels.md)"
    rows = [row for path in paths for row in _rows(path)]
    made = build_reference(rows, lines, provenance, show_progress)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    if as_json:
        print_json({"path": str(output), "errors": made.errors, "folds": made.folds})
        return
    click.echo(f"wrote {output}: {len(made.errors)} errors, {len(lines)} all-reduce lines")
