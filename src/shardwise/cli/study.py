"""`shardwise study`: the questions of the published study, for any model, GPU and lengths."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shardwise.cli.files import print_result, say_prose, show_progress, show_tables
from shardwise.cli.options import (
    GPUS,
    JSON,
    LENGTH_CV,
    PRICE,
    WIDE,
    Duration,
    fixed_limits,
    limit_options,
    put_on_node,
    sizes,
    speculation_options,
    subject_options,
)
from shardwise.errors import InputError


@click.command()
@partial(subject_options, gpu_required=False)
@limit_options
@speculation_options
@GPUS
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
    help="Requests in flight per replica.",
)
@click.option("--isl", default=2048, show_default=True, help="Input tokens per request.")
@click.option("--osl", default=2048, show_default=True, help="Output tokens per request.")
@LENGTH_CV
@click.option(
    "--cached-tokens",
    default=0,
    show_default=True,
    help="Length of a cached prefix shared by all prompts, as part of --isl.",
)
@click.option(
    "--mode",
    type=click.Choice(["closed_loop", "static_batch"]),
    default="closed_loop",
    show_default=True,
    help="closed_loop keeps the batch in flight; static_batch runs it once.",
)
@click.option("--requests", default=0, help="Requests of each run; 0: ten per slot.")
@click.option(
    "--tpot",
    type=Duration(),
    default="50ms",
    show_default=True,
    help="TPOT bound for online use, e.g. 50ms.",
)
@click.option(
    "--ttft",
    type=Duration(),
    default="2s",
    show_default=True,
    help="TTFT bound for online use, e.g. 2s.",
)
@PRICE
@click.option(
    "--measure",
    is_flag=True,
    help="Run the study on this machine and compare it with its prediction.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time budget of --measure in minutes.",
)
@click.option("--name", default="", help="Profile that --measure corrects; default: this-machine.")
@click.option(
    "--python", default="", help="--measure: Python interpreter of the engine's environment."
)
@click.option(
    "--flag",
    "flags",
    multiple=True,
    help="--measure: argument to add to the engine's command; repeatable.",
)
@click.option(
    "--env",
    multiple=True,
    help="--measure: environment variable NAME=VALUE for the engine; repeatable.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write files to.")
@WIDE
@JSON
def study(**given: Any) -> None:
    """Show how the TP size changes latency, throughput and cost of MODEL on one node.

    MODEL is a bundled id (llama-3.1-70b), a folder or config.json, or a Hugging Face id.
    """
    if given["measure"] and given["speculation"] != "none":
        raise InputError(
            f"--speculation {given['speculation'][:40]} with --measure",
            "allowed: none",
            "pass the engine's own flags with --flag",
        )
    if given["measure"] and given["layouts"]:
        raise InputError(
            "--layouts with --measure", "allowed: --tp", "a measured study varies only TP"
        )
    if given["measure"] and given["cached_tokens"]:
        raise InputError(f"--cached-tokens {given['cached_tokens']} with --measure", "allowed: 0")
    if given["measure"] and given["node_file"] is not None:
        raise InputError(
            f"--node {given['node_file']} with --measure",
            "allowed: one of them",
            "what is measured is this machine",
        )
    put_on_node(given)
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
            "--gpu is missing",
            "a GPU of the catalogue, a node file with --node, or --measure for this one",
            field="gpu",
        )
    if given["output"]:
        prepare_folder(given["output"])
    if given["layouts"]:
        _layouts(given)
        return
    found = predict_study(
        given["model"],
        tp_sizes=sizes(given["tp"], "--tp"),
        concurrencies=sizes(given["batch"], "--batch"),
        ttft_s=given["ttft"],
        tpot_s=given["tpot"],
        usd_per_gpu_hour=given["price"],
        command=shlex.join(["shardwise", *sys.argv[1:]]),
        **_shared_arguments(given),
    )
    if given["as_json"]:
        print_result(found)
    else:
        say_prose(found.summary() + "\n")
        show_tables(found)
    if given["output"]:
        written = found.write(given["output"], show_progress)
        click.echo(f"wrote {len(written)} files to {given['output']}/", err=True)


def _layouts(given: dict[str, Any]) -> None:
    """Study a grid of layouts: print two tables, or one JSON document."""
    from shardwise.api.layouts import study_layouts

    source = click.get_current_context().get_parameter_source("batch")
    usual = source is ParameterSource.DEFAULT
    found = study_layouts(
        given["model"],
        layouts=given["layouts"].split(","),
        concurrencies=None if usual else sizes(given["batch"], "--batch"),
        **_shared_arguments(given),
    )
    if given["as_json"]:
        print_result(found)
    else:
        if found.summary():
            say_prose(found.summary())
        show_tables(found)
    if given["output"]:
        written = found.write(given["output"])
        click.echo(f"wrote {len(written)} files to {given['output']}/", err=True)


def _shared_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a study, of TP sizes or of layouts, from the options."""
    same = (
        "gpu", "gpus", "isl", "osl", "mode", "requests", "dtype", "kv_dtype", "engine",
        "engine_version", "cached_tokens", "length_cv", "profile", "catalogue_files",
        "speculation", "acceptance",
    )  # fmt: skip
    return {**{name: given[name] for name in same}, "limits": fixed_limits(given)}
