"""`shardwise bench run`: measure a running endpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.bench_options import (
    exit_if_nothing,
    load_arguments,
    load_options,
    report_unkept,
    show_measurements,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.evidence.measured import Measured

#: options of this command that `bench_run` takes under the same names
_AS_GIVEN = (
    *("model", "architecture", "gpu", "engine", "tp_size", "dtype", "ca_file", "tokenizer"),
    *("trace", "sharegpt"),
)


@click.command()
@click.argument("url")
@click.option(
    "--model", default="", help="Model name at the endpoint; default: the model it serves."
)
@click.option("--architecture", default="", help="Model id for comparison with predictions.")
@click.option(
    "--gpu", default="unknown", show_default=True, help="GPU id for comparison with predictions."
)
@click.option("--engine", default="", help="Engine name; default: as reported by the endpoint.")
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="TP size of the endpoint, for the results.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="Weight dtype for comparison with predictions.",
)
@click.option("--ca-file", default="", help="PEM file of CA certificates to trust for https.")
@click.option("--api-key-env", default="", help="Environment variable that holds the API key.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json file, or its folder."
)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Trace file with arrival times and lengths."
)
@click.option(
    "--sharegpt", type=click.Path(path_type=Path), help="ShareGPT file to take prompts from."
)
@load_options
def run(url: str, **given: Any) -> None:
    """Measure the OpenAI-compatible endpoint at URL under each load."""
    from shardwise.api.benchmarking import bench_run
    from shardwise.api.measurements import Measurements

    cells: list[Measured] = []
    arguments = {name: given[name] for name in _AS_GIVEN} | load_arguments(given)
    try:
        found = bench_run(
            url,
            api_key=_key(given["api_key_env"]),
            say=lambda line: click.echo(line, err=True),
            done=cells.append,
            **arguments,
        )
    finally:  # also after an error: the finished cells
        if cells:
            show_measurements(Measurements(cells), given["as_json"])
    exit_if_nothing(found.cells)
    report_unkept(found, given["store"])


def _key(variable: str) -> str:
    if variable and variable not in os.environ:
        raise InputError(f"--api-key-env {variable}", "allowed: a variable that is set")
    return os.environ.get(variable, "") if variable else ""
