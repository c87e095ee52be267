"""`shardwise validate`: how far predictions are from measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shardwise.cli.files import print_json, show_progress, show_table
from shardwise.cli.options import JSON, PROFILE, WIDE
from shardwise.cli.rows import report_problems, report_unused


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@PROFILE
@click.option("--use", default="", help="Only rows whose 'use' column says this.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for files.")
@WIDE
@JSON
def validate(rows: Path, profile: str, use: str, output: Path | None, as_json: bool) -> None:
    """Compare predictions with the measured ROWS of a CSV file.

    Prints error, bias and interval coverage by GPU, model, TP and batch, and whether the TP that
    measured best is the one predicted to be.
    """
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.validation import GROUPINGS, choices, points_of, scores
    from shardwise.reports.accuracy_tables import choice_table, score_table
    from shardwise.reports.files import prepare_folder, write_csv, write_json

    if output:
        prepare_folder(output)
    loaded = load_profile(profile)
    good = _measured(rows, use)
    points = points_of(good, loaded)
    by_group = {name: scores(points, key) for name, key in GROUPINGS.items()}
    chosen = choices(points)
    limited = _kv_limited(good, loaded)
    document = {
        "profile": loaded.name,
        "rows": len(good),
        "scores": by_group,
        "choices": chosen,
        "kv_limited": limited,
    }
    if as_json:
        print_json(document)
    tables = [score_table(found, name) for name, found in by_group.items()]
    tables += [choice_table(chosen)] if chosen else []
    if not as_json:
        for table in tables:
            show_table(table)
        if limited["marked"]:
            click.echo(f"KV-limited rows recognised: {limited['found']} of {limited['marked']}")
    if output:
        from shardwise.reports.figures import predicted_measured, save

        write_json(output / "validation.json", document)
        for done, table in enumerate(tables, start=1):
            show_progress("tables", done, len(tables))
            write_csv(output / f"{table.name}.csv", table)
        save(predicted_measured(points), output, "predicted_measured")
        click.echo(f"wrote {output}/", err=True)


def _measured(path: Path, use: str) -> list[Any]:
    """Rows that can be predicted and hold a measurement; the others are named on stderr."""
    from shardwise.errors import InputError
    from shardwise.perfmodel.predicting import usable_rows
    from shardwise.perfmodel.rows import read_table

    header, table = read_table(path)
    report_unused(header)
    good, problems = usable_rows(table)
    report_problems(problems)
    wanted = [row for row in good if not use or row.use == use]
    if not wanted:
        raise InputError(f"no measured row of {path} can be predicted")
    return wanted


def _kv_limited(rows: list[Any], profile: Any) -> dict[str, int]:
    from shardwise.perfmodel.validation import kv_limited_recall

    found, marked = kv_limited_recall(rows, profile)
    return {"found": found, "marked": marked}
