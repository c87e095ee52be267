"""`shardwise simulate`: a deployment under traffic, and what its clients would see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment
    from shardwise.simulator.fleet import Failure

POLICIES = ("round_robin", "least_loaded", "power_of_two", "cache_aware")
ARRIVALS = ("poisson", "bursty", "constant")


def _failure(text: str) -> Failure:
    from shardwise.simulator.fleet import Failure

    try:
        parts = [float(part) for part in text.split(":")]
        replica, down, *up = parts
        return Failure(int(replica), down, *up)
    except (TypeError, ValueError):
        raise InputError(
            f"--fail {text[:40]!r}", "expected: REPLICA:DOWN_S[:UP_S], such as 0:60:90"
        ) from None


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
@click.option("--tp", "tp_size", type=int, default=1, show_default=True, help="TP of a replica.")
@click.option("--replicas", type=int, default=1, show_default=True)
@click.option("--engine", default="vllm", show_default=True)
@click.option("--weight-dtype", default="auto", show_default=True)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="CSV: Azure's, or arrival_s,isl,osl."
)
@click.option("--rate", type=float, help="Requests/s, instead of a trace.")
@click.option("--concurrency", type=int, help="Requests kept in flight, instead of a rate.")
@click.option("--arrivals", type=click.Choice(ARRIVALS), default="poisson", show_default=True)
@click.option("--isl", type=float, default=1000.0, show_default=True, help="Mean input tokens.")
@click.option("--osl", type=float, default=500.0, show_default=True, help="Mean output tokens.")
@click.option("--length-cv", type=float, default=0.0, show_default=True, help="Their variation.")
@click.option("--duration", type=float, default=600.0, show_default=True, help="Seconds.")
@click.option("--warmup", type=float, default=0.0, show_default=True, help="Seconds left out.")
@click.option("--policy", type=click.Choice(POLICIES), default="least_loaded", show_default=True)
@click.option("--fail", "fails", multiple=True, help="REPLICA:DOWN_S[:UP_S]; may be repeated.")
@click.option("--ttft", type=float, help="Bound in seconds a request must meet to be good.")
@click.option("--tpot", type=float, help="The same for TPOT.")
@click.option(
    "--price",
    "--usd-per-gpu-hour",
    "usd_per_gpu_hour",
    type=float,
    help="USD per GPU-hour instead of the catalogue's price.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def simulate(deployment: str, as_json: bool, **options: Any) -> None:
    """Simulate DEPLOYMENT, a model's name or a .toml file, under a trace, a rate or a concurrency.

    Prints percentiles of TTFT, TPOT and E2E latency with their number of requests and an 80 %
    interval, goodput, occupancy and cost. Exit code 3 if the deployment is overloaded; the rate
    that it holds is said.
    """
    from shardwise.cli.files import print_json
    from shardwise.cli.simulate_report import Asked, answer, render

    given = [name for name in ("trace", "rate", "concurrency") if options[name] is not None]
    if len(given) != 1:
        raise InputError(
            f"given: {', '.join('--' + name for name in given) or 'no traffic'}",
            "needed: exactly one of --trace, --rate, --concurrency",
        )
    named = {
        name: options.pop(name) for name in ("gpu", "tp_size", "replicas", "engine", "weight_dtype")
    }
    failures = tuple(_failure(text) for text in options.pop("fails"))
    found = answer(read_deployments(deployment, named), Asked(**options, failures=failures))
    if as_json:
        print_json(found)
    else:
        click.echo(render(found))
    if found["overloaded"]:
        click.echo(f"shardwise: {found['overload']}", err=True)
        raise SystemExit(3)
