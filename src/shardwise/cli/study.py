"""`shardwise study`: the published study's questions, for any model, GPU and lengths."""

from __future__ import annotations

import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from msgspec.structs import replace

from shardwise.cli.files import print_json, print_result, say_prose, show_progress, show_table
from shardwise.cli.options import (
    JSON,
    LENGTH_CV,
    PRICE,
    WIDE,
    Duration,
    fixed_limits,
    limit_options,
    sizes,
    speculation_of,
    speculation_options,
    subject_options,
)
from shardwise.errors import InputError


@click.command()
@partial(subject_options, gpu_required=False)
@limit_options
@speculation_options
@click.option("--gpus", default=8, show_default=True, help="GPUs in the node.")
@click.option(
    "--layouts",
    default="",
    help="Layouts to compare instead of TP sizes, e.g. TP8,TP8xEP8,DP8xEP8,TP4xPP2.",
)
@click.option("--tp", default="1,2,4,8", show_default=True, help="TP sizes to compare.")
@click.option(
    "--batch",
    default="1,2,4,8,16,32,64,128,256",
    show_default=True,
    help="Requests in flight per copy.",
)
@click.option("--isl", default=2048, show_default=True, help="Input tokens of a request.")
@click.option("--osl", default=2048, show_default=True, help="Output tokens of a request.")
@LENGTH_CV
@click.option(
    "--cached-tokens",
    default=0,
    show_default=True,
    help="Tokens of --isl that all prompts share and the prefix cache holds.",
)
@click.option(
    "--mode",
    type=click.Choice(["closed_loop", "static_batch"]),
    default="closed_loop",
    show_default=True,
    help="Keep the batch in flight, or run it once.",
)
@click.option("--requests", default=0, help="Requests of each run; 0: ten per slot.")
@click.option(
    "--tpot", type=Duration(), default="50ms", show_default=True, help="TPOT bound of online use."
)
@click.option(
    "--ttft", type=Duration(), default="2s", show_default=True, help="TTFT bound of online use."
)
@PRICE
@click.option("--measure", is_flag=True, help="Run it on this machine, beside its prediction.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget of --measure.")
@click.option("--name", default="", help="Profile that --measure corrects; default: this-machine.")
@click.option("--python", default="", help="--measure: interpreter of the engine's environment.")
@click.option("--flag", "flags", multiple=True, help="--measure: added to the engine's command.")
@click.option("--env", multiple=True, help="--measure: NAME=VALUE for the engine; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for files.")
@WIDE
@JSON
def study(**given: Any) -> None:
    """What the TP size does to latency, throughput and cost of MODEL on one node.

    MODEL is a bundled id (llama-3.1-70b), a folder or config.json, or a Hugging Face id.
    """
    if given["measure"] and given["speculation"] != "none":
        raise InputError(
            f"--speculation {given['speculation'][:40]} with --measure",
            "allowed: none",
            "pass the engine's own flags with --flag",
        )
    if given["measure"] and given["layouts"]:
        raise InputError("--layouts with --measure", "allowed: --tp", "a measured study varies TP")
    if given["measure"] and given["cached_tokens"]:
        raise InputError(f"--cached-tokens {given['cached_tokens']} with --measure", "allowed: 0")
    if given["measure"]:
        from shardwise.cli.study_measure import measure

        measure(given)
    else:
        _predict(given)


def _predict(given: dict[str, Any]) -> None:
    from shardwise.api.studying import study as predict_study
    from shardwise.reports.files import prepare_folder

    if not given["gpu"]:
        raise InputError(
            "--gpu is missing", "a GPU of the catalogue, or --measure for this one", field="gpu"
        )
    if given["output"]:
        prepare_folder(given["output"])
    if given["layouts"]:
        _layouts(given)
        return
    found = predict_study(
        given["model"],
        gpu=given["gpu"],
        gpus=given["gpus"],
        tp_sizes=sizes(given["tp"], "--tp"),
        concurrencies=sizes(given["batch"], "--batch"),
        isl=given["isl"],
        osl=given["osl"],
        mode=given["mode"],
        requests=given["requests"],
        ttft_s=given["ttft"],
        tpot_s=given["tpot"],
        dtype=given["dtype"],
        kv_dtype=given["kv_dtype"],
        engine=given["engine"],
        engine_version=given["engine_version"],
        cached_tokens=given["cached_tokens"],
        length_cv=given["length_cv"],
        limits=fixed_limits(given),
        profile=given["profile"],
        catalogue_files=given["catalogue_files"],
        usd_per_gpu_hour=given["price"],
        speculation=given["speculation"],
        acceptance=given["acceptance"],
        command=shlex.join(["shardwise", *sys.argv[1:]]),
    )
    if given["as_json"]:
        print_result(found)
    else:
        say_prose(found.summary() + "\n")
        for table in found.tables():
            show_table(table)
    if given["output"]:
        written = found.write(given["output"], show_progress)
        click.echo(f"wrote {len(written)} files to {given['output']}/", err=True)


def _layouts(given: dict[str, Any]) -> None:
    """A grid over layouts: two tables, or one JSON document."""
    from shardwise.analysis.layout_steps import layout_grid
    from shardwise.layout.deployment import layout_of
    from shardwise.perfmodel.subject import subject_of
    from shardwise.reports.files import write_csv, write_json
    from shardwise.reports.layout_tables import layout_tables

    layouts = [layout_of(part) for part in given["layouts"].split(",")]
    subject, _ = subject_of(_asked(given))
    question = _question(given)
    source = click.get_current_context().get_parameter_source("batch")
    if source is ParameterSource.DEFAULT:  # of the usual batches, those that all copies share
        copies = math.lcm(*(layout.attention_dp for layout in layouts))
        batches = tuple(b for b in question.concurrencies if b % copies == 0) or (copies,)
        question = replace(question, concurrencies=batches)
    grid = layout_grid(subject, question, layouts)
    if given["as_json"]:
        print_json("study_layouts", {"layouts": grid})
    else:
        for item in grid.left_out:
            say_prose(f"left out {item.layout}: {item.reason}")
        for table in layout_tables(grid):
            show_table(table)
    if folder := given["output"]:
        written = [write_json(folder / "layouts.json", grid)]
        written += [write_csv(folder / f"{t.name}.csv", t) for t in layout_tables(grid)]
        click.echo(f"wrote {len(written)} files to {folder}/", err=True)


def _asked(given: dict[str, Any]) -> Any:
    from shardwise.perfmodel.subject import Asked

    return Asked(
        given["model"],
        given["gpu"],
        given["engine"],
        given["dtype"],
        given["kv_dtype"],
        given["profile"],
        given["catalogue_files"],
        given["engine_version"],
        speculation_of(given),
    )


def _question(given: dict[str, Any]) -> Any:
    from shardwise.analysis.run import Question

    return Question(
        given["gpus"],
        sizes(given["tp"], "--tp"),
        sizes(given["batch"], "--batch"),
        given["isl"],
        given["osl"],
        given["mode"],
        given["requests"],
        fixed_limits(given),
        given["cached_tokens"],
        given["length_cv"],
    )
