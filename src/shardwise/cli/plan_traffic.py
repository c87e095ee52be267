"""`shardwise plan` with bounds on percentiles: deployments simulated under arriving requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.files import say_prose, show_table
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.analysis.holding import Holding
    from shardwise.simulator.capacity import Target

MEDIANS: Final = (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2e", "e2e_latency_s"))


def targets(options: dict[str, Any]) -> list[Target]:
    """Every bound given, on medians and on 99th percentiles."""
    from shardwise.cli.plan_question import seconds
    from shardwise.simulator.capacity import Target

    found = []
    for name, metric in MEDIANS:
        for key, percentile in ((name, 50.0), (f"{name}_p99", 99.0)):
            bound = seconds(options[key], key.replace("_", "-"))
            if bound is not None:
                found.append(Target(metric, percentile, bound))
    return found


def answer(
    names: tuple[str, ...], options: dict[str, Any], output: Path | None, save: Path | None
) -> None:
    """Search, print, and write what was asked for."""
    from shardwise.analysis.holding import hold
    from shardwise.cli.files import show_progress, write_document
    from shardwise.cli.plan_question import order_of, questions_of
    from shardwise.reports.holding_tables import (
        holding_document,
        holding_table,
        recommendation,
        rejected_lines,
    )
    from shardwise.simulator.compiling import HAS_NUMBA, INSTALL, compiles_first

    if len(names) > 1:
        raise InputError(f"{len(names)} models with bounds on percentiles", "allowed: one model")
    if options["objective"] != "cost":
        raise InputError(
            f"objective {options['objective'][:40]!r} with bounds on percentiles", "allowed: cost"
        )
    if options["price"] is not None and len(options["gpu"]) > 1:
        raise InputError(
            f"--price with {len(options['gpu'])} kinds of GPU",
            "allowed: one kind",
            "give each its price in a file with --catalogue",
        )
    asked = targets(options)
    kinds = dict.fromkeys(options["gpu"] or ("",))
    questions = [questions_of(names, options, gpu)[0] for gpu in kinds]
    if not HAS_NUMBA:
        click.echo(f"not compiled, so a hundred times slower: {INSTALL}", err=True)
    elif compiles_first():
        click.echo("compiling the simulation, once: half a minute", err=True)
    found = hold(questions, asked, progress=show_progress)
    order = order_of(options["node"], found.best.deployment.tp_size)
    commands, remark = _commands(names[0], found, order)
    document = holding_document(found, commands, remark)
    if not options["as_json"]:
        say_prose(recommendation(found) + "\n")
        show_table(holding_table(found))
        for line in rejected_lines(found):
            say_prose(f"rejected, {line}")
        click.echo(f"\nRun{f' ({remark})' if remark else ''}:")
        for command in commands:
            click.echo(command.line)
    write_document(document, output, options["as_json"])
    if save is not None:
        _save(names[0], found, order, save)


def _commands(name: str, found: Holding, order: tuple[int, ...]) -> tuple[Any, str]:
    from shardwise.planner.command import checkpoint, note, replicas

    q, best = found.best.question, found.best.deployment
    stored = checkpoint(name, q.arch, best)
    return replicas(best, q.arch, q.node.gpu, stored, order=order), note(stored)


def _save(name: str, found: Holding, order: tuple[int, ...], path: Path) -> None:
    from shardwise.hosting import deployment_file
    from shardwise.hosting.planned import Chosen, planned

    best = found.best
    q = best.question
    chosen = Chosen(name, q.arch, q.node.gpu, best.deployment, order=order)
    deployment_file.save(planned([chosen], best.deployment.gpus), path)
    click.echo(f"wrote {path}: start it with 'shardwise up {path}'", err=True)
