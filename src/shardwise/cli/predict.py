"""`shardwise predict`: rows in, the same rows with predictions out."""

from __future__ import annotations

from pathlib import Path

import click

from shardwise.cli.files import print_json, require_writable, write_csv
from shardwise.cli.options import JSON, PROFILE
from shardwise.cli.rows import report_problems, report_unused
from shardwise.errors import InputError


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV file.")
@PROFILE
@JSON
def predict(rows: Path, output: Path, profile: str, as_json: bool) -> None:
    """Predict each row of ROWS, a CSV file with the columns of measured rows.

    Columns needed: model_id, gpu_id, engine_id, weight_dtype, tp, mode, concurrency, isl, osl.
    Added: pred_ttft_ms, pred_tpot_ms, pred_e2e_s, pred_output_tok_s, pred_total_tok_s, each with
    its 80 % interval in _lo and _hi; pred_kv_limited; pred_note.
    """
    from shardwise.perfmodel.predicting import NEW_COLUMNS, predict_table
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.rows import read_table

    require_writable(output)
    loaded = load_profile(profile)
    header, table = read_table(rows)
    report_unused(header)
    predicted, problems = predict_table(table, loaded)
    report_problems(problems)
    left_out = len({p.number for p in problems})
    if left_out == len(table):
        raise InputError(f"none of the {len(table)} rows of {rows} could be predicted")
    kept = [name for name in header if name not in NEW_COLUMNS]
    write_csv(output, [*kept, *NEW_COLUMNS], predicted)
    done = len(table) - left_out
    if as_json:
        print_json({"output": str(output), "predicted": done, "problems": problems})
    click.echo(f"{output}: {done} of {len(table)} rows predicted", err=True)
