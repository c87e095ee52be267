"""`shardwise bench run`: measure a running endpoint."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.bench_options import (
    UNKNOWN,
    effort_of,
    exit_if_nothing,
    load_options,
    report_unkept,
    require_names,
    show_cells,
    workloads,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardwise.bench.cell import Arranged, Effort, Subject
    from shardwise.bench.target import Target
    from shardwise.evidence.measured import Measured
    from shardwise.workload.workload import Workload


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
    from shardwise.architecture.models import load
    from shardwise.bench.http import require_answer, served_engine, served_model
    from shardwise.bench.shards import terminable
    from shardwise.bench.target import parse_target

    effort = effort_of(given)
    loads = workloads(given)
    require_names(given["gpu"], given["engine"] or UNKNOWN, given["dtype"])
    if given["architecture"]:
        load(given["architecture"])
    target = parse_target(
        url,
        given["api"],
        given["model"],
        _key(given["api_key_env"]),
        given["ca_file"],
        exact=not given["actual_lengths"],
    )
    with terminable():
        require_answer(target)
        if not target.model:
            target = target.named(served_model(target))
        if not given["engine"]:
            given["engine"] = served_engine(target)
        _measure(target, [(load, effort(load)) for load in loads], given)


def _measure(target: Target, loads: list[tuple[Workload, Effort]], given: dict[str, Any]) -> None:
    """Measure each load, save it, and show the finished cells even after an error."""
    from shardwise.bench.cell import measure
    from shardwise.bench.keeping import keep
    from shardwise.evidence.store import open_store

    cells: list[Measured] = []
    with open_store(given["store"]) as store:
        try:
            for load, asked in loads:
                subject = _subject(target, load, given)
                click.echo(subject.key, err=True)
                cell = measure(target, subject, _arrangement(target, load, asked, given), asked)
                cells.append(cell)
                keep(store, cell, lambda line: click.echo(line, err=True))
                if cell.conditions["interrupted"]:
                    break
        finally:
            if cells:
                show_cells(cells, given["as_json"])
        exit_if_nothing(cells)
        report_unkept(cells, store)


def _key(variable: str) -> str:
    if variable and variable not in os.environ:
        raise InputError(f"--api-key-env {variable}", "allowed: a variable that is set")
    return os.environ.get(variable, "") if variable else ""


def _subject(target: Target, load: Workload, given: dict[str, Any]) -> Subject:
    from shardwise.bench.cell import Subject
    from shardwise.bench.machine import describe
    from shardwise.evidence.record import Source
    from shardwise.layout.deployment import Deployment, Dtypes, Layout

    offered = f"c={load.concurrency}"
    if given["trace"]:
        offered = f"trace={given['trace'].name}"
    elif load.request_rate is not None:
        offered = f"rate={load.request_rate:g}"
    key = f"{target.model} tp={given['tp_size']} {load.mode} {offered}"
    key += f" isl={load.isl:g} osl={load.osl:g}"
    now = datetime.now(UTC)
    return Subject(
        given["study"],
        f"{key} {now.isoformat(timespec='seconds')}",
        Deployment(
            model=given["architecture"] or target.model,
            gpu=given["gpu"],
            layout=Layout(tp_size=given["tp_size"]),
            dtypes=Dtypes(weight=given["dtype"]),
            engine=given["engine"],
        ),
        load,
        Source("measured", f"shardwise bench of {target.url}", now.date().isoformat()),
        {"url": target.url, "seed": given["seed"], "client": describe()},
    )


def _arrangement(
    target: Target, load: Workload, effort: Effort, given: dict[str, Any]
) -> Callable[[int], Arranged]:
    """Return the requests that each repeat sends."""
    from shardwise.bench.arrivals import read_trace
    from shardwise.bench.cell import Arranged, arrange
    from shardwise.bench.prompts import choose_source, make_prompts
    from shardwise.bench.sharegpt import read_sharegpt, sharegpt_prompts
    from shardwise.bench.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(given["tokenizer"]) if given["tokenizer"] else None
    seed = given["seed"] * 1000
    if given["sharegpt"]:
        turns = read_sharegpt(given["sharegpt"])

        def asked_by_people(repeat: int) -> Arranged:
            pairs = sharegpt_prompts(turns, effort.requests, seed + repeat, given["osl"])
            return Arranged([prompt for prompt, _ in pairs], [osl for _, osl in pairs])

        return asked_by_people
    source = choose_source(target, tokenizer)
    if given["trace"]:
        trace = read_trace(given["trace"], given["requests"])
        count = len(trace.due_s)
        isl, osl = trace.isl or [given["isl"]] * count, trace.osl or [given["osl"]] * count
        return lambda repeat: Arranged(make_prompts(source, isl, seed + repeat), osl, trace.due_s)
    return lambda repeat: arrange(
        source, load, effort.requests, seed + repeat, given["shared_prefix"]
    )
