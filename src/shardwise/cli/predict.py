"""`shardwise predict`: add predictions to a table of rows."""

from __future__ import annotations

from pathlib import Path

import click

from shardwise.cli.files import print_result, require_writable
from shardwise.cli.options import CATALOGUE, JSON, NODE, PROFILE
from shardwise.cli.rows import report_problems, report_unused_of


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV file to write."
)
@PROFILE
@NODE
@CATALOGUE
@JSON
def predict(
    rows: Path,
    output: Path,
    profile: str,
    node_file: Path | None,
    catalogue_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Predict each row of ROWS, a CSV file.

    Required columns: model_id, gpu_id, engine_id, weight_dtype, tp, mode, concurrency, isl, osl.
    Added columns: pred_ttft_ms, pred_tpot_ms, pred_e2e_s, pred_output_tok_s, pred_total_tok_s,
    each with its 80 % interval in _lo and _hi; pred_kv_limited; pred_note.
    """
    from shardwise.api.predicting import predict_rows
    from shardwise.reports.files import write_rows

    require_writable(output)
    found = predict_rows(
        rows, profile=profile, catalogue_files=catalogue_files, node_file=node_file
    )
    report_unused_of(rows)
    report_problems(found.problems)
    write_rows(output, found.header, found.rows)
    if as_json:
        print_result(found)
    click.echo(f"{output}: {found.predicted} of {len(found.rows)} rows predicted", err=True)
