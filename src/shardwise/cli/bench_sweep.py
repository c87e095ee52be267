"""`shardwise bench sweep`: start an engine at each TP, measure every load, and save each cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.bench_options import (
    effort_of,
    exit_if_nothing,
    load_options,
    report_unkept,
    show_cells,
    workloads,
)
from shardwise.cli.options import Duration, sizes
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.bench.sweep import Engine, Sweep


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
    from shardwise.bench.shards import terminable
    from shardwise.bench.sweep import missing, run_sweep
    from shardwise.evidence.store import open_store
    from shardwise.replica.running import EngineError

    asked, engine = _sweep(model, given), _engine(model, given)
    for tp in asked.tp_sizes:
        engine.devices_of(tp)
    with open_store(given["store"]) as store, terminable():
        try:
            measured = run_sweep(asked, engine, store, lambda line: click.echo(line, err=True))
        except EngineError as error:
            for line in error.last_lines:
                click.echo(f"  | {line}", err=True)
            raise
        cells = store.cells(asked.study)
        there = {cell.key for cell in cells}
        cells += [cell for cell in measured if cell.repeats and cell.key not in there]
        left = len(missing(asked, engine, store))
        if cells:
            show_cells(cells, given["as_json"])
        exit_if_nothing(measured)
        report_unkept(measured, store)
    if left:
        click.echo(f"shardwise: {left} cells have no completed request", err=True)


def _sweep(model: str, given: dict[str, Any]) -> Sweep:
    from shardwise.architecture.models import load
    from shardwise.bench.sweep import Sweep
    from shardwise.layout.deployment import Layout
    from shardwise.layout.rules import require_layout

    tp_sizes = sizes(given["tp"], "--tp")
    architecture = load(model)
    for tp in tp_sizes:
        require_layout(architecture, Layout(tp))
    return Sweep(
        study=given["study"],
        model=model,
        tp_sizes=tp_sizes,
        workloads=workloads(given),
        effort=effort_of(given),
        seed=given["seed"],
        shared_prefix=given["shared_prefix"],
        api=given["api"],
        exact=not given["actual_lengths"],
    )


def _engine(model: str, given: dict[str, Any]) -> Engine:
    from shardwise.bench.sweep import Engine
    from shardwise.layout.deployment import Deployment, EngineLimits
    from shardwise.replica.command import Instance
    from shardwise.replica.devices import kind_here, present

    kind = "cpu" if given["gpu"] == "cpu" else kind_here()
    there = present(kind)
    devices = _numbers(given["devices"]) if given["devices"] else sorted(there)
    if not devices or not set(devices) <= there:
        listed = ", ".join(map(str, sorted(there)))
        raise InputError(f"--devices {given['devices']}", f"allowed on this machine: {listed}")
    path = Path(model).expanduser()
    deployment = Deployment(
        str(path.resolve()) if path.exists() else model,
        given["gpu"] or "",
        limits=EngineLimits(max_model_len=_rounded(given["isl"] + given["osl"])),
        engine=given["engine"],
    )
    instance = Instance(
        deployment,
        flags=given["flags"],
        python=given["python"],
        env=_environment(given["env"]),
    )
    dtype = given["dtype"]
    return Engine(
        instance=instance,
        weight_dtype="fp32" if dtype == "auto" and kind == "cpu" else dtype,
        gpu=given["gpu"] or kind,
        kind=kind,
        devices=tuple(devices),
        port=given["port"],
        ready_timeout_s=given["ready_timeout"],
    )


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


def _rounded(tokens: int) -> int:
    """Round up to a multiple of 256, with room for tokens that a server adds to a prompt."""
    return -(-(tokens + 16) // 256) * 256
