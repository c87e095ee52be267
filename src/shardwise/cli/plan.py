"""`shardwise plan`: from a question to a ranked deployment and its command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.files import say_prose, show_table
from shardwise.cli.options import (
    CATALOGUE,
    JSON,
    LENGTH_CV,
    PROFILE,
    WIDE,
    limit_options,
    speculation_options,
)
from shardwise.errors import InputError, NothingMeetsError

if TYPE_CHECKING:
    from shardwise.planner.packing import Packed

MAX_MODELS: Final = 16
P99: Final = ("ttft_p99", "tpot_p99", "e2e_p99")


@click.command()
@click.argument("model")
@click.option("--model", "more", multiple=True, help="Another model on the node; repeatable.")
@click.option("--gpu", multiple=True, help="GPU id; several to compare at p99.")
@click.option("--gpus", type=int, default=8, show_default=True, help="GPUs in the node.")
@click.option(
    "--node",
    type=click.Path(path_type=Path),
    help="Node file of 'shardwise doctor --save': GPUs, their number, links and devices.",
)
@click.option(
    "--startup-log",
    type=click.Path(allow_dash=True),
    help="Start-up log of the engine on this GPU; what its KV cache holds is taken as a fact.",
)
@click.option("--nodes", type=int, default=1, show_default=True, help="Nodes of so many GPUs.")
@click.option("--network", default="", help="What joins them: ib-ndr, roce-400, ethernet-100, ….")
@click.option("--isl", type=int, multiple=True, required=True, help="Input tokens a request.")
@click.option("--osl", type=int, multiple=True, required=True, help="Output tokens a request.")
@click.option(
    "--cached-tokens",
    type=int,
    multiple=True,
    help="Of --isl: a beginning that all prompts share, in the prefix cache.",
)
@LENGTH_CV
@click.option("--concurrency", type=int, multiple=True, help="Requests in flight on the node.")
@click.option("--request-rate", type=float, multiple=True, help="Requests/s on the node.")
@click.option("--ttft", help="Longest TTFT: 200ms, 2s, or a number of ms.")
@click.option("--tpot", help="Longest TPOT, e.g. 30ms.")
@click.option("--e2e", help="Longest E2E latency, e.g. 20s.")
@click.option("--ttft-p99", help="Bound on the 99th percentile at --request-rate, by simulation.")
@click.option("--tpot-p99", help="The same for TPOT.")
@click.option("--e2e-p99", help="The same for E2E latency.")
@click.option("--objective", default="cost", show_default=True, help="cost, latency, throughput.")
@click.option("--dtype", default=None, help="Weight dtype; default: the checkpoint's and narrower.")
@click.option("--kv-dtype", default="auto", show_default=True, help="KV cache dtype.")
@click.option("--price", type=float, help="USD per GPU-hour instead of the catalogue's price.")
@click.option(
    "--engine",
    default="vllm",
    show_default=True,
    help="Engine: vllm, sglang, trtllm, atom or builtin.",
)
@limit_options
@speculation_options
@click.option(
    "--disaggregated",
    is_flag=True,
    help="Say whether pools of prefill and decode instances would do better.",
)
@PROFILE
@CATALOGUE
@WIDE
@JSON
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON there too.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write a deployment file for 'shardwise up'."
)
def plan(
    model: str, more: tuple[str, ...], output: Path | None, save: Path | None, **options: Any
) -> None:
    """Rank the deployments of MODEL that fit a node, with the reason each loser lost.

    With further --model options, the node's GPUs are shared among all; --isl, --osl,
    --concurrency and --request-rate then take one value for all, or one for each in order.

    With a bound on a 99th percentile, TP x replicas (x GPU kind, if several are given) are
    simulated under arrivals at --request-rate; the cheapest that holds is recommended, each with
    the highest rate that it holds.
    """
    from shardwise.cli.files import require_writable
    from shardwise.cli.plan_question import order_of, questions_of
    from shardwise.planner.packing import Packed, pack
    from shardwise.planner.plan import plan as plan_one

    names = (model, *more)
    if len(names) > MAX_MODELS:
        raise InputError(f"{len(names)} models", f"allowed: at most {MAX_MODELS}")

    if not options["gpu"] and options["node"] is None:
        raise InputError("no --gpu is given", "allowed: a GPU id, or a node file with --node")
    if output is not None:
        require_writable(output)
    if save is not None:
        require_writable(save)
    if options["nodes"] > 1:
        _refuse_across_nodes(options, save)
    if any(options[name] for name in P99):
        from shardwise.cli.plan_traffic import answer

        if options["disaggregated"]:
            raise InputError(
                "--disaggregated with bounds on percentiles",
                "allowed: bounds on medians, with --ttft, --tpot or --e2e",
            )
        answer(names, options, output, save)
        return
    if len(options["gpu"]) > 1:
        raise InputError(
            f"{len(options['gpu'])} kinds of GPU",
            "allowed: one, or several with --ttft-p99, --tpot-p99 or --e2e-p99",
        )
    questions = questions_of(names, options, options["gpu"][0] if options["gpu"] else "")
    try:
        packed = pack(questions) if more else (Packed(plan_one(questions[0]), 0),)
    except NothingMeetsError as error:
        if more or not options["disaggregated"]:
            raise
        from shardwise.cli.plan_verdicts import with_pools

        raise with_pools(questions[0], error) from None
    order = order_of(options["node"], max(p.plan.best.deployment.tp_size for p in packed))
    _deliver(names, packed, order, options, output)
    if save is not None:
        _save(names, packed, order, save)


def _refuse_across_nodes(options: dict[str, Any], save: Path | None) -> None:
    """Raise InputError for what is of one node alone."""
    for given, what in (
        (any(options[name] for name in P99), "bounds on percentiles"),
        (options["disaggregated"], "--disaggregated"),
        (save is not None, "--save"),
    ):
        if given:
            raise InputError(f"{what} on {options['nodes']} nodes", "allowed: one node")


def _deliver(
    names: tuple[str, ...],
    packed: tuple[Packed, ...],
    order: tuple[int, ...],
    options: dict[str, Any],
    output: Path | None,
) -> None:
    from shardwise.cli.files import say, write_document
    from shardwise.cli.plan_verdicts import document_of, say_verdicts, verdicts_of
    from shardwise.planner.command import checkpoint, note, replicas, replicas_across
    from shardwise.reports.plan_tables import (
        plan_document,
        plan_table,
        rejected_lines,
    )
    from shardwise.reports.plan_words import recommendation

    documents = []
    port, as_json, disaggregated = 8000, options["as_json"], options["disaggregated"]
    for name, item in zip(names, packed, strict=True):
        q, best = item.plan.question, item.plan.best
        found = checkpoint(name, q.arch, best.deployment)
        if q.node.nodes > 1:
            commands = replicas_across(best.deployment, q.arch, q.node, found)
        else:
            commands = replicas(
                best.deployment, q.arch, q.node.gpu, found, item.first_device, port, order
            )
        port += len(commands)
        remark = note(found)
        verdicts = verdicts_of(item.plan, disaggregated)
        if as_json or output is not None:
            document = plan_document(item.plan, commands, remark)
            documents.append(document | document_of(verdicts))
        if as_json:
            continue

        say_prose(recommendation(item.plan) + "\n")
        show_table(plan_table(item.plan))
        for line in rejected_lines(item.plan.rejected):
            say_prose(f"rejected, {line}")
        say_verdicts(verdicts)
        say(f"\nRun{f' ({remark})' if remark else ''}:")
        for i, command in enumerate(commands):
            if q.node.nodes > 1 and (i == 0 or commands[i - 1].node != command.node):
                say(f"# on node {command.node}")
            say(command.line)
        for file in commands[0].files:
            say(f"\n{file.name}:\n{file.text}")
        click.echo("")
    if documents:
        write_document(
            documents[0] if len(documents) == 1 else {"models": documents}, output, as_json
        )


def _save(
    names: tuple[str, ...], packed: tuple[Packed, ...], order: tuple[int, ...], path: Path
) -> None:
    from shardwise.hosting import deployment_file
    from shardwise.hosting.planned import Chosen, planned

    chosen = [
        Chosen(
            name,
            item.plan.question.arch,
            item.plan.question.node.gpu,
            item.plan.best.deployment,
            item.first_device,
            order,
        )
        for name, item in zip(names, packed, strict=True)
    ]
    gpus = sum(item.plan.question.node.gpus for item in packed)
    deployment_file.save(planned(chosen, gpus), path)
    click.echo(f"wrote {path}: start it with 'shardwise up {path}'", err=True)
