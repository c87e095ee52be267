"""`shardwise simulate`: a deployment under traffic, and what its clients would see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.options import ABOVE_0, SEED
from shardwise.cli.traffic_options import require_window, traffic_options
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment
    from shardwise.simulator.fleet import Failure

MAX_REPLICAS: Final = 10_000
LONG: Final = 50_000  #: requests; a second or two for each ten thousand where not compiled
POLICIES = ("round_robin", "least_loaded", "power_of_two", "cache_aware")
ARRIVALS = ("poisson", "bursty", "constant")


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
            f"--fail {text[:40]!r}", "expected: REPLICA:DOWN_S[:UP_S], such as 0:60:90"
        ) from None


def _say_if_long(options: dict[str, Any]) -> None:
    """Say on stderr how much there is to do where that takes longer than one waits in silence."""
    from shardwise.cli.simulate_report import WAVES
    from shardwise.simulator.traffic import MAX_REQUESTS

    slots, rate = options["concurrency"] or 0, options["rate"] or 0.0
    requests = slots * WAVES + rate * options["duration"]
    if LONG < requests <= MAX_REQUESTS:
        click.echo(f"{requests:,.0f} requests, simulated three times: this takes a while", err=True)


def read_deployments(subject: str, options: dict[str, Any]) -> list[Deployment]:
    """What to simulate: a model's name with options, or a deployment file."""
    from shardwise.layout.deployment import Deployment, Dtypes, Layout

    if subject.endswith(".toml"):
        from shardwise.hosting.deployment_file import load

        return load(Path(subject)).deployments()
    layout = Layout(tp_size=options["tp_size"], replicas=options["replicas"])
    return [
        Deployment(
            subject,
            options["gpu"],
            layout,
            dtypes=Dtypes(weight=options["weight_dtype"]),
            engine=options["engine"],
        )
    ]


@click.command()
@click.argument("deployment")
@click.option("--gpu", default="h200", show_default=True, help="GPU; not with a file.")
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="TP of a replica.",
)
@click.option("--replicas", type=click.IntRange(1, MAX_REPLICAS), default=1, show_default=True)
@click.option("--engine", default="vllm", show_default=True)
@click.option("--weight-dtype", default="auto", show_default=True)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="CSV: Azure's, or arrival_s,isl,osl."
)
@click.option("--rate", type=ABOVE_0, help="Requests/s, instead of a trace.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000_000),
    help="Requests kept in flight, instead of a rate.",
)
@click.option("--arrivals", type=click.Choice(ARRIVALS), default="poisson", show_default=True)
@traffic_options
@click.option("--policy", type=click.Choice(POLICIES), default="least_loaded", show_default=True)
@click.option("--fail", "fails", multiple=True, help="REPLICA:DOWN_S[:UP_S]; may be repeated.")
@click.option("--ttft", type=ABOVE_0, help="Bound in seconds a request must meet to be good.")
@click.option("--tpot", type=ABOVE_0, help="The same for TPOT.")
@click.option(
    "--price",
    "--usd-per-gpu-hour",
    "usd_per_gpu_hour",
    type=ABOVE_0,
    help="USD per GPU-hour instead of the catalogue's price.",
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def simulate(deployment: str, as_json: bool, **options: Any) -> None:
    """Simulate DEPLOYMENT, a model's name or a .toml file, under a trace, a rate or a concurrency.

    Prints percentiles of TTFT, TPOT and E2E latency with their number of requests and an 80 %
    interval, goodput, occupancy and cost. Exit code 3 if the deployment is overloaded; the rate
    that it holds is said.
    """
    from shardwise.cli.files import print_json
    from shardwise.cli.simulate_report import Asked, answer, render, require_answers

    given = [name for name in ("trace", "rate", "concurrency") if options[name] is not None]
    if len(given) != 1:
        raise InputError(
            f"given: {', '.join('--' + name for name in given) or 'no traffic'}",
            "needed: exactly one of --trace, --rate, --concurrency",
        )
    if options["rate"] is not None:
        require_window(options["duration"], options["warmup"])
    named = {
        name: options.pop(name) for name in ("gpu", "tp_size", "replicas", "engine", "weight_dtype")
    }
    _say_if_long(options)
    failures = tuple(_failure(text) for text in options.pop("fails"))
    found = answer(read_deployments(deployment, named), Asked(**options, failures=failures))
    if as_json:
        print_json(found)
    else:
        click.echo(render(found))
    require_answers(found)
    if found["overloaded"]:
        click.echo(f"shardwise: {found['overload']}", err=True)
        raise SystemExit(3)
