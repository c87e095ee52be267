"""`shardwise study --measure`: run the study on this machine and compare it with its prediction."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Final

import click

from shardwise.cli.files import print_result, show_progress, show_tables
from shardwise.cli.options import sizes
from shardwise.errors import InputError

FOLDER: Final = Path("measured")


def measure(given: dict[str, Any]) -> None:
    """Predict, run the missing cells, compare, calibrate, and write the results to a folder."""
    from shardwise.api.measuring import measure_study
    from shardwise.cli.files import require_writable
    from shardwise.replica.running import EngineError

    folder: Path = given["output"] or FOLDER
    require_writable(folder / "measured.db")
    try:
        found = measure_study(
            given["model"],
            folder=folder,
            say=lambda line: click.echo(line, err=True),
            **_arguments(given),
        )
    except EngineError as error:
        for line in error.last_lines:
            click.echo(f"  | {line}", err=True)
        raise
    report = found.write(folder, show_progress, command=shlex.join(["shardwise", *sys.argv[1:]]))
    if given["as_json"]:
        print_result(found)
    else:
        show_tables(found)
        click.echo(found.summary())
        if found.profile:
            click.echo(f"corrected profile: --profile {found.profile}")
        click.echo(f"report: {report}")
    if found.interrupted:
        click.echo("shardwise: interrupted; run the same command again to resume", err=True)
        sys.exit(130)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options; `measure_study` has defaults for the others."""
    context = click.get_current_context()
    named = {
        "isl": given["isl"],
        "osl": given["osl"],
        "engine": given["engine"],
        "tp_sizes": given["tp"],
        "concurrencies": given["batch"],
    }
    options = {"tp_sizes": "tp", "concurrencies": "batch"}
    found = {}
    for name, value in named.items():
        option = options.get(name, name)
        if context.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT:
            found[name] = sizes(value, f"--{option}") if name in options else value
    same = ("dtype", "kv_dtype", "profile", "minutes", "python", "flags")
    found |= {name: given[name] for name in same}
    return found | {
        "gpu": given["gpu"] or "",
        "env": _environment(given["env"]),
        **({"name": given["name"]} if given["name"] else {}),
    }


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--env is {pair[:40]!r}", "allowed: NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
