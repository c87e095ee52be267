"""`shardwise calibrate`: a profile from measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shardwise.cli.files import print_json, report_problems, require_writable, show_progress
from shardwise.errors import InputError


@click.command()
@click.argument("rows", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--name", help="Name of your profile, used with --profile from then on.")
@click.option("--profile", default="reference", show_default=True, help="Profile to start from.")
@click.option(
    "--collectives",
    type=click.Path(path_type=Path),
    help="All-reduce latencies; with --output, fits everything anew instead of your pair alone.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File of a new profile.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(
    rows: tuple[Path, ...],
    name: str | None,
    profile: str,
    collectives: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Fit the performance model to the measured ROWS of CSV files.

    With --name, your rows move the coefficients of your own GPU and engine and leave the rest as
    it was; the error before and after is cross-validated. With --collectives and --output, the
    whole hierarchy is fitted to the rows marked 'calibrate': that is how the bundled profile is
    made.
    """
    _need_scipy()
    if name and not output and not collectives and len(rows) == 1:
        _personal(rows[0], name, profile, as_json)
    elif output and collectives and not name:
        _reference(rows, collectives, output, as_json)
    else:
        raise InputError(
            "calibrate needs one file of rows and --name NAME, or --collectives FILE with "
            "--output FILE"
        )


def _need_scipy() -> None:
    from importlib.util import find_spec

    if find_spec("scipy") is None:
        raise InputError("calibrate needs SciPy", remedy="pip install 'shardwise[calibrate]'")


def _rows(path: Path) -> list[Any]:
    from shardwise.perfmodel.predicting import usable_rows
    from shardwise.perfmodel.rows import read_table

    good, problems = usable_rows(read_table(path)[1])
    report_problems(problems)
    return good


def _personal(path: Path, name: str, base: str, as_json: bool) -> None:
    from shardwise import metrics
    from shardwise.perfmodel.build import build_personal
    from shardwise.perfmodel.profiles import check_name, load_profile, save_profile

    check_name(name)
    made = build_personal(
        _rows(path), load_profile(base), name, f"{path.name} on top of {base}", show_progress
    )
    written = save_profile(made.profile)
    if as_json:
        errors = {"before_pct": made.before_pct, "after_pct": made.after_pct}
        print_json({"profile": name, "path": str(written), "rows": made.rows, **errors})
        return
    click.echo(f"{made.rows} rows; mean error, before and after (cross-validated):")
    for metric, before in made.before_pct.items():
        label = metrics.ALL[metric].label
        click.echo(f"  {label:18}  {before:6.1f} %  {made.after_pct[metric]:6.1f} %")
    click.echo(f"saved {written}; use it with --profile {name}")


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
