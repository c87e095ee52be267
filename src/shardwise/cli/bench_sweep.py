"""`shardwise bench sweep`: start an engine at each TP, measure every load, and save each cell."""

from __future__ import annotations

from typing import Any

import click

from shardwise.cli.bench_options import (
    exit_if_nothing,
    load_arguments,
    load_options,
    report_unkept,
    show_measurements,
)
from shardwise.cli.options import Duration, sizes
from shardwise.errors import InputError


@click.command()
@click.argument("model")
@click.option(
    "--engine",
    type=click.Choice(["builtin", "vllm", "sglang"]),
    default="builtin",
    help="Engine to start for each TP size.",
)
@click.option("--tp", default="1,2", show_default=True, help="TP sizes to compare.")
@click.option("--devices", help="GPUs or CPU cores to use, e.g. 0,1; default: all.")
@click.option("--gpu", default="", help="GPU id in the results; default: cpu, or detected.")
@click.option("--dtype", default="auto", help="Weight dtype; auto: fp32 on CPU, else as stored.")
@click.option("--python", default="", help="Python interpreter of the engine's environment.")
@click.option(
    "--flag",
    "flags",
    multiple=True,
    help="Argument to add to the engine's command line; repeatable.",
)
@click.option(
    "--env", multiple=True, help="Environment variable NAME=VALUE for the engine; repeatable."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8390,
    show_default=True,
    help="First port for replicas to listen on.",
)
@click.option(
    "--ready-timeout",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Longest wait for an engine to start, e.g. 5m.",
)
@load_options
def sweep(model: str, **given: Any) -> None:
    """Measure MODEL (a folder, file or Hugging Face id) at each TP under each load.

    Run an interrupted sweep again to measure only the missing cells.
    """
    from shardwise.api.sweeping import bench_sweep
    from shardwise.replica.running import EngineError

    try:
        found = bench_sweep(
            model,
            tp_sizes=sizes(given["tp"], "--tp"),
            devices=_numbers(given["devices"]) if given["devices"] else (),
            env=_environment(given["env"]),
            ready_timeout_s=given["ready_timeout"],
            say=lambda line: click.echo(line, err=True),
            **{name: given[name] for name in ("engine", "gpu", "dtype", "python", "flags", "port")},
            **load_arguments(given),
        )
    except EngineError as error:
        for line in error.last_lines:
            click.echo(f"  | {line}", err=True)
        raise
    show_measurements(found, given["as_json"])
    exit_if_nothing(found.measured_now)
    report_unkept(found, given["store"])


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"--devices is {text!r}", "allowed: numbers, e.g. 0,1")
    return [int(part) for part in parts]


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--env is {pair[:40]!r}", "allowed: NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
