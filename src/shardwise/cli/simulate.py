"""`shardwise simulate`: simulate a deployment under traffic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.combinations import given_options, require_effect
from shardwise.cli.files import show_tables
from shardwise.cli.options import ABOVE_0, JSON, SEED, WIDE, Duration, Finite, put_on_node
from shardwise.cli.simulate_options import (
    DEPLOYMENT,
    MAX_REPLICAS,
    POLICIES,
    deployment_of,
    deployment_options,
    load_arguments,
    load_options,
    require_on_node,
    stages_of,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment
    from shardwise.simulator.fleet import Failure

TRAFFIC: Final = ("trace", "rate", "stage", "concurrency", "day")
LONG: Final = 50_000  #: requests; ten thousand take a second or two if not compiled


def _failure(text: str) -> Failure:
    from shardwise.simulator.fleet import Failure

    try:
        parts = [float(part) for part in text.split(":")]
        replica, down, *up = parts
        if not all(math.isfinite(part) for part in parts):
            raise ValueError
        return Failure(int(replica), down, *up)
    except (TypeError, ValueError):
        raise InputError(
            f"--fail {text[:40]!r}", "expected: REPLICA:DOWN_S[:UP_S], e.g. 0:60:90"
        ) from None


def _require_name(subject: str) -> None:
    """Raise InputError for options that describe a deployment beside a file that does."""
    if not subject.endswith(".toml"):
        return
    given = given_options()
    for name in (*DEPLOYMENT, "tp_size", "replicas", "prefill_replicas"):
        if name in given:
            raise InputError(
                f"{given[name]} with a deployment file",
                "allowed: a model's name",
                f"set it in {subject}",
            )


def _require_hash_ids(options: dict[str, Any]) -> None:
    """Raise InputError for a block size beside a trace without hash ids."""
    if options["hash_block"] is not None and options["trace"].suffix == ".csv":
        raise InputError("--hash-block with a CSV trace", "allowed: a .jsonl trace with hash_ids")


def _rates(text: str) -> list[float]:
    """Parse the requests/s of each hour from `2,1,1,4`. Raises InputError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--day {text[:40]!r}", "expected: requests/s of each hour, e.g. 2,1,1,4"
        ) from None


def _day(deployments: list[Deployment], options: dict[str, Any], as_json: bool) -> None:
    """Print the replicas needed in each hour of --day: two tables, or one JSON document."""
    from shardwise.api.day import simulate_day
    from shardwise.cli.files import print_result

    if options["ttft"] is None and options["tpot"] is None:
        raise InputError("--day without a bound", "needed: --ttft, --tpot or both")
    if len(deployments) != 1:
        raise InputError(f"--day with {len(deployments)} models", "allowed: one model")
    found = simulate_day(
        deployments[0],
        request_rates=_rates(options["day"]),
        ttft_p99_s=options["ttft"],
        tpot_p99_s=options["tpot"],
        isl=options["isl"],
        osl=options["osl"],
        length_cv=options["length_cv"],
        start_up_s=options["start_up"],
        prefix_caching=not options["no_prefix_caching"],
        usd_per_gpu_hour=options["usd_per_gpu_hour"],
        seed=options["seed"],
        profile=options["profile"],
        catalogue_files=options["catalogue_files"],
        network=options["network"],
        gpus_per_node=options["gpus_per_node"],
    )
    if as_json:
        print_result(found)
        return
    show_tables(found)


def _say_if_long(options: dict[str, Any]) -> None:
    """Announce long simulations on stderr."""
    from shardwise.api.day import HOUR_S
    from shardwise.api.simulation import DURATION_S
    from shardwise.simulator.closed_loop import WAVES
    from shardwise.simulator.trace import MAX_REQUESTS

    slots, rate = options["concurrency"] or 0, options["rate"] or 0.0
    requests = slots * WAVES + rate * (options["duration"] or DURATION_S) * (options["turns"] or 1)
    requests += sum(s.request_rate * s.duration_s for s in stages_of(options["stage"]))
    if options["day"] is not None:
        requests += HOUR_S * sum(_rates(options["day"]))
    if LONG < requests <= MAX_REQUESTS:
        click.echo(f"{requests:,.0f} requests, simulated three times: this takes a while", err=True)


def read_deployments(subject: str, options: dict[str, Any]) -> list[Deployment]:
    """Return the deployments to simulate: from a model's name and options, or from a file."""
    if subject.endswith(".toml"):
        from shardwise.hosting.deployment_file import load

        return load(Path(subject)).deployments()
    return [deployment_of(subject, options, options["tp_size"], options["replicas"])]


@click.command()
@click.argument("deployment")
@deployment_options
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="TP size of a replica.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, MAX_REPLICAS),
    default=1,
    show_default=True,
    help="Number of replicas behind the balancer.",
)
@click.option(
    "--prefill-replicas",
    type=click.IntRange(0, MAX_REPLICAS),
    default=0,
    help="Number of prefill replicas; --replicas then only decode.",
)
@click.option(
    "--prefill-tp",
    type=click.IntRange(1, 1024),
    help="TP size of the prefill replicas; default: the deployment's.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="Trace: CSV of Azure, BurstGPT or arrival_s,isl,osl; .jsonl of Mooncake.",
)
@click.option("--hash-block", type=int, help="Tokens per block of a trace's hash_ids.")
@click.option("--rate", type=ABOVE_0, help="Requests/s (sessions/s with --turns).")
@click.option(
    "--stage", multiple=True, help="REQUESTS_PER_S:DURATION of a stage, e.g. 8:10m; repeatable."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000_000),
    help="Requests kept in flight, instead of a rate: ten for each, or --duration.",
)
@click.option("--day", help="Requests/s of each hour, e.g. 2,1,1,4; finds the replicas for each.")
@click.option(
    "--start-up",
    type=Duration(above_0=False),
    default="3m",
    show_default=True,
    help="Start-up time of a replica, for --day.",
)
@load_options
@click.option(
    "--lengths",
    type=click.Path(path_type=Path),
    help="Draw lengths from a ShareGPT .json or a trace.",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="least_loaded",
    show_default=True,
    help="Routing policy of the balancer.",
)
@click.option(
    "--fail",
    "fails",
    multiple=True,
    help="Failure of a replica, REPLICA:DOWN_S[:UP_S]; repeatable.",
)
@click.option(
    "--price",
    "--usd-per-gpu-hour",
    "usd_per_gpu_hour",
    type=Finite(0, 1e6, min_open=True),
    help="USD per GPU-hour instead of the catalogue's price.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Random seed of arrivals and lengths."
)
@WIDE
@JSON
def simulate(deployment: str, as_json: bool, **options: Any) -> None:
    """Simulate DEPLOYMENT, a model's name or a .toml file, under traffic.

    Give exactly one of --trace, --rate, --stage, --concurrency and --day. Prints percentiles of
    TTFT, TPOT and E2E latency with 80 % intervals and the number of requests behind them, goodput,
    occupancy and cost. If the deployment is overloaded, prints the rate that it sustains and exits
    with 3.
    """
    from shardwise.cli.files import print_result

    given = [name for name in TRAFFIC if options[name] not in (None, ())]
    if len(given) != 1:
        raise InputError(
            f"given: {', '.join('--' + name for name in given) or 'no traffic'}",
            f"needed: exactly one of {', '.join('--' + name for name in TRAFFIC)}",
        )
    require_effect()
    _require_hash_ids(options)
    _require_name(deployment)
    on_node = options["node_file"] is not None
    put_on_node(options)
    named = {name: options.pop(name) for name in (*DEPLOYMENT, "tp_size", "replicas")}
    _say_if_long(options)
    deployments = read_deployments(deployment, named)
    if on_node:
        require_on_node(deployments, options["catalogue_files"][-1], named["gpu"])
    if options["day"] is not None:
        _day(deployments, options, as_json)
        return
    from shardwise.api.simulation import simulate as simulate_load

    found = simulate_load(
        deployments,
        trace_file=options["trace"],
        request_rate=options["rate"],
        stages=stages_of(options["stage"]),
        concurrency=options["concurrency"],
        hash_block=options["hash_block"],
        lengths_file=options["lengths"],
        policy=options["policy"],
        failures=[_failure(text) for text in options["fails"]],
        usd_per_gpu_hour=options["usd_per_gpu_hour"],
        seed=options["seed"],
        prefill_replicas=options["prefill_replicas"],
        prefill_tp=options["prefill_tp"],
        **load_arguments(options),
    )
    if as_json:
        print_result(found)
    else:
        show_tables(found)
        click.echo(found.summary())
    if found.overloaded:
        click.echo(f"shardwise: {found.found['overload']}", err=True)
        raise SystemExit(3)
