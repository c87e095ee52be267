"""`shardwise plan`: rank deployments and print the best one's command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.files import (
    print_result,
    require_writable,
    say,
    say_prose,
    show_table,
    write_result,
)
from shardwise.cli.options import (
    CATALOGUE,
    ENGINE,
    GPUS,
    JSON,
    KV_DTYPE,
    LENGTH_CV,
    NODE,
    PRICE,
    PROFILE,
    WIDE,
    Duration,
    fixed_limits,
    limit_options,
    speculation_options,
)
from shardwise.cli.pasted import pasted
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.api.kinds import KindsResult
    from shardwise.api.percentiles import PercentilePlan
    from shardwise.api.planning import PlanResult

BOUNDS: Final = ("ttft", "tpot", "e2e")


@click.command()
@click.argument("model")
@click.option("--model", "more", multiple=True, help="Another model on the same node; repeatable.")
@click.option("--gpu", multiple=True, help="GPU id, e.g. h200; repeat to compare kinds.")
@GPUS
@click.option(
    "--nodes", type=int, default=1, show_default=True, help="Number of nodes, each of --gpus GPUs."
)
@click.option(
    "--network", default="", help="Network between nodes, e.g. ib-ndr, roce-400, ethernet-100."
)
@NODE
@click.option(
    "--startup-log",
    type=click.Path(allow_dash=True),
    help="Start-up log of the engine on this GPU; its KV cache size is used instead of the "
    "prediction.",
)
@click.option("--isl", type=int, multiple=True, required=True, help="Input tokens per request.")
@LENGTH_CV
@click.option("--osl", type=int, multiple=True, required=True, help="Output tokens per request.")
@click.option(
    "--cached-tokens",
    type=int,
    multiple=True,
    help="Length of a cached prefix shared by all prompts, as part of --isl.",
)
@click.option("--concurrency", type=int, multiple=True, help="Requests in flight on the node.")
@click.option("--request-rate", type=float, multiple=True, help="Requests/s on the node.")
@click.option("--ttft", type=Duration(), help="Bound on the median TTFT, e.g. 200ms.")
@click.option("--tpot", type=Duration(), help="Bound on the median TPOT, e.g. 30ms.")
@click.option("--e2e", type=Duration(), help="Bound on the median E2E latency, e.g. 20s.")
@click.option(
    "--ttft-p99",
    type=Duration(),
    help="Bound on the 99th percentile of TTFT at --request-rate, simulated.",
)
@click.option(
    "--tpot-p99",
    type=Duration(),
    help="Bound on the 99th percentile of TPOT at --request-rate, simulated.",
)
@click.option(
    "--e2e-p99",
    type=Duration(),
    help="Bound on the 99th percentile of E2E latency at --request-rate, simulated.",
)
@click.option(
    "--objective",
    default="cost",
    show_default=True,
    help="Ranking objective: cost, latency or throughput.",
)
@click.option(
    "--disaggregated",
    is_flag=True,
    help="Compare with disaggregated prefill and decode instances.",
)
@click.option(
    "--dtype", default=None, help="Weight dtype; default: the checkpoint's and narrower ones."
)
@KV_DTYPE
@PRICE
@ENGINE
@limit_options
@speculation_options
@PROFILE
@CATALOGUE
@WIDE
@JSON
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Also write the JSON document to this file.",
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write a deployment file for 'shardwise up'."
)
def plan(
    model: str, more: tuple[str, ...], output: Path | None, save: Path | None, **options: Any
) -> None:
    """Rank the deployments of MODEL that fit on a node, with the reason each one lost.

    With further --model options, the models share the node's GPUs. Give --isl, --osl,
    --concurrency and --request-rate once for all models, or once per model in order.

    With several --gpu, each kind is planned, and the best is printed in full.

    With a bound on a 99th percentile, TP x replicas (x GPU kinds) are simulated under arrivals at
    --request-rate. The cheapest that meets the bounds is recommended. Each is shown with the
    highest rate that it sustains.
    """
    if not options["gpu"] and options["node_file"] is None:
        raise InputError("no --gpu is given", "allowed: a GPU id, or a node file with --node")
    for path in filter(None, (output, save)):
        require_writable(path)
    if options["nodes"] > 1:
        _refuse_across_nodes(options)
    found = _found((model, *more), options)
    try:  # files first: a reader such as `head` may close the output early
        if output is not None:
            write_result(found, output)
        if save is not None:
            found.save(save)
    finally:
        if options["as_json"]:
            print_result(found)
        else:
            _show(found, options)
    if save is not None:
        then = f"start it with 'shardwise up {save}'"
        if options["nodes"] > 1:
            then = f"translate it with 'shardwise export {save} --to kubernetes'"
        click.echo(f"wrote {save}: {then}", err=True)


def _found(
    names: tuple[str, ...], options: dict[str, Any]
) -> PlanResult | PercentilePlan | KindsResult:
    """Answer the question of the options."""
    if any(options[f"{name}_p99"] is not None for name in BOUNDS):
        from shardwise.cli.plan_percentiles import find

        return find(names, options, _shared_arguments(options))
    from shardwise.api.planning import plan as plan_models

    log = options["startup_log"]
    arguments = dict(
        concurrency=options["concurrency"],
        request_rate=options["request_rate"],
        objective=options["objective"],
        nodes=options["nodes"],
        network=options["network"],
        startup_log=None if log is None else pasted(log),
        speculation=options["speculation"],
        acceptance=options["acceptance"],
        disaggregated=options["disaggregated"],
        **_shared_arguments(options),
    )
    if len(options["gpu"]) > 1:
        return _kinds(names, arguments, options)
    gpu = options["gpu"][0] if options["gpu"] else ""
    return plan_models(names, gpu=gpu, **arguments)


def _kinds(
    names: tuple[str, ...], arguments: dict[str, Any], options: dict[str, Any]
) -> KindsResult:
    """Plan on each kind of GPU and print the table of kinds."""
    from shardwise.api.kinds import compare_kinds

    if len(names) > 1:
        raise InputError(
            f"{len(options['gpu'])} kinds of GPU with {len(names)} models",
            "allowed: one kind, or one model",
            field="gpu",
        )
    found = compare_kinds(names[0], kinds=options["gpu"], **arguments)
    if not options["as_json"]:
        show_table(found.tables()[0])
        for none in found.kinds.without:
            say_prose(f"no plan on {none.gpu}: {none.reason}")
        say("")
    return found


def _refuse_across_nodes(options: dict[str, Any]) -> None:
    """Raise InputError for options that support only one node."""
    if options["disaggregated"]:
        raise InputError(f"--disaggregated on {options['nodes']} nodes", "allowed: one node")


def _shared_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a plan from the options, with or without percentile bounds."""
    return {
        "isl": options["isl"],
        "osl": options["osl"],
        "cached_tokens": options["cached_tokens"],
        "length_cv": options["length_cv"],
        "gpus": options["gpus"],
        "node_file": options["node_file"],
        "ttft_s": options["ttft"],
        "tpot_s": options["tpot"],
        "e2e_latency_s": options["e2e"],
        "dtype": options["dtype"],
        "kv_dtype": options["kv_dtype"],
        "engine": options["engine"],
        "engine_version": options["engine_version"],
        "limits": fixed_limits(options),
        "profile": options["profile"],
        "catalogue_files": options["catalogue_files"],
        "usd_per_gpu_hour": options["price"],
    }


def _show(found: PlanResult | PercentilePlan | KindsResult, options: dict[str, Any]) -> None:
    """Print the recommendation, the ranking, the rejected layouts and the commands of each
    model."""
    for part in found.parts():
        say_prose(part.recommendation + "\n")
        show_table(part.table)
        for line in part.rejected:
            say_prose(f"rejected, {line}")
        for lines in part.verdicts:
            say("")
            for line in lines:
                say_prose(line)
        if part.verdict_table:
            show_table(part.verdict_table)
        say(f"\nRun{f' ({part.remark})' if part.remark else ''}:")
        for i, command in enumerate(part.commands):
            if options["nodes"] > 1 and (i == 0 or part.commands[i - 1].node != command.node):
                say(f"# on node {command.node}")
            say(command.line)
        for file in part.commands[0].files:
            say(f"\n{file.name}:\n{file.text}")
        say("")
