"""`shardwise study --measure`: the study run on this machine, beside its prediction."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.files import print_json, show_progress, show_table
from shardwise.cli.options import sizes
from shardwise.engines import managed
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.experiment.outcome import Outcome
    from shardwise.experiment.run import Wanted

FOLDER: Final = Path("measured")
HARDWARE: Final = "this-machine"
#: what the study's own defaults become for a machine whose size is not known beforehand
DEFAULTS: Final = {"batch": "1,4,16", "isl": 128, "osl": 32, "engine": "builtin"}


def measure(given: dict[str, Any]) -> None:
    """Predict, run what is missing, compare, calibrate, and write it all into a folder."""
    from shardwise.experiment.outcome import outcome
    from shardwise.experiment.run import run
    from shardwise.experiment.timeline import Timeline
    from shardwise.perfmodel.profiles import save_profile
    from shardwise.replica.running import EngineError

    folder: Path = given["output"] or FOLDER
    _prepare(folder)
    wanted = _wanted(given, folder)
    clock = Timeline()
    try:
        ran = run(wanted, folder, clock, lambda line: click.echo(line, err=True))
    except EngineError as error:
        for line in error.last_lines:
            click.echo(f"  | {line}", err=True)
        raise
    spent = clock.spent()
    if not ran.measured:
        raise InputError(
            f"--minutes {given['minutes']:g} is too short for a single cell",
            "allowed: as long as one engine start and one cell take",
        )
    found = outcome(wanted, ran, given["name"] or HARDWARE, _machine_words(wanted), spent)
    if found.corrected.profile:
        save_profile(found.corrected.profile)
    _write(found, folder)
    if given["as_json"]:
        print_json("study_measure", {"outcome": found})
    else:
        _print(found, folder)
    if ran.interrupted:
        click.echo("shardwise: interrupted; the same command goes on from here", err=True)
        sys.exit(130)


def _prepare(folder: Path) -> None:
    from shardwise.cli.engine_extra import require_modules
    from shardwise.cli.files import require_writable

    require_modules(("scipy", "uvloop", "httptools", "orjson", "psutil"), "measure")
    require_writable(folder / "measured.db")


def _wanted(given: dict[str, Any], folder: Path) -> Wanted:
    from shardwise.architecture.models import bundled, load
    from shardwise.experiment.design import longest
    from shardwise.experiment.run import Wanted
    from shardwise.experiment.split import machine_here, splits
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
    from shardwise.layout.rules import require_layout
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.replica.command import Instance

    asked = {**given, **{k: v for k, v in DEFAULTS.items() if _is_default(k)}}
    machine = machine_here(gpu=asked["gpu"] or "")
    every = [2**k for k in range(len(machine.devices).bit_length()) if 2**k <= len(machine.devices)]
    tp_sizes = tuple(every) if _is_default("tp") else sizes(asked["tp"], "--tp")
    splits(machine, tp_sizes)
    model = asked["model"]
    architecture = load(model)
    for tp in tp_sizes:
        require_layout(architecture, Layout(tp))
    dtype = asked["dtype"]
    if dtype == "auto":
        dtype = "fp32" if machine.kind == "cpu" else "bf16"
    engine = asked["engine"]
    if engine not in managed():
        raise InputError(f"--engine {engine}", f"allowed with --measure: {', '.join(managed())}")
    flags = [*asked["flags"], "--dtype", _dtype_of(engine, dtype)]
    path = Path(model).expanduser()
    loads = str(path.resolve()) if path.exists() else model
    if engine == "builtin":
        flags += ["--max-queue", "100000"]
        if model in bundled():
            loads, flags = _without_weights(model, folder), [*flags, "--random-weights"]
            click.echo(f"{model}: random weights, which take the same time", err=True)
    return Wanted(
        model=model if model in bundled() else loads,
        machine=machine,
        instance=Instance(
            Deployment(
                loads,
                "",
                limits=EngineLimits(max_model_len=longest(asked["isl"], asked["osl"])),
                dtypes=Dtypes(kv=asked["kv_dtype"]),
                engine=engine,
            ),
            flags=tuple(flags),
            python=asked["python"],
            env=_environment(asked["env"]),
        ),
        weight_dtype=dtype,
        tp_sizes=tp_sizes,
        concurrencies=sizes(asked["batch"], "--batch"),
        isl=asked["isl"],
        osl=asked["osl"],
        hardware_name=HARDWARE,
        profile=load_profile(asked["profile"]),
        budget_s=60.0 * asked["minutes"] if asked["minutes"] else float("inf"),
    )


def _is_default(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT


def _dtype_of(engine: str, dtype: str) -> str:
    return (
        dtype if engine == "builtin" else {"fp32": "float32", "bf16": "bfloat16"}.get(dtype, dtype)
    )


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--env is {pair[:40]!r}", "allowed: NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _without_weights(model: str, folder: Path) -> str:
    """A folder with the config of a bundled model, which no weights belong to."""
    from shardwise.architecture.models import bundled_config

    made = folder / model
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(bundled_config(model), indent=1), "utf-8")
    return str(made.resolve())


def _machine_words(wanted: Wanted) -> str:
    from shardwise.bench.machine import describe

    about = describe()
    if wanted.machine.kind == "cpu":
        return f"{len(wanted.machine.devices)} cores of {about['cpu']}"
    return ", ".join(about["gpus"]) or f"{len(wanted.machine.devices)} GPUs"


def _write(found: Outcome, folder: Path) -> None:
    from shardwise.evidence.portable import portable
    from shardwise.reports.experiment_tables import experiment_tables
    from shardwise.reports.figures import save
    from shardwise.reports.files import write_bytes, write_csv, write_json
    from shardwise.reports.html.experiment import experiment_figures, experiment_html

    write_json(folder / "experiment.json", portable(found))
    for table in experiment_tables(found):
        write_csv(folder / f"{table.name}.csv", table)
    charts = experiment_figures(found)
    for done, (name, chart) in enumerate(charts.items(), start=1):
        show_progress(f"figure {name}", done, len(charts))
        save(chart, folder, name)
    command = shlex.join(["shardwise", *sys.argv[1:]])
    write_bytes(folder / "report.html", experiment_html(found, command).encode())


def _print(found: Outcome, folder: Path) -> None:
    from shardwise.reports.experiment_tables import experiment_tables, time_lines

    for table in experiment_tables(found):
        show_table(table)
    for line in time_lines(found):
        click.echo(line)
    if found.corrected.profile:
        click.echo(f"corrected profile: --profile {found.profile}")
    click.echo(f"report: {folder / 'report.html'}")
