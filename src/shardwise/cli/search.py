"""`shardwise search`: run the simulations of a grid, on this machine's cores or a Ray cluster."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardwise.cli.combinations import require_effect
from shardwise.cli.files import print_result, show_progress, show_table
from shardwise.cli.options import JSON, WIDE, put_on_node, sizes
from shardwise.cli.simulate_options import (
    MAX_REPLICAS,
    POLICIES,
    deployment_of,
    deployment_options,
    load_arguments,
    load_options,
    require_on_node,
)
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.layout.deployment import Deployment

MAX_SEEDS: Final = 1_000_000


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--rate {text[:40]!r}", "expected: requests/s, e.g. 5,10,20") from None
    if not all(0 < rate < 1e9 for rate in rates):
        raise InputError(f"--rate {text[:40]!r}", "allowed: requests/s above 0, e.g. 5,10,20")
    return rates


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in POLICIES:
            raise InputError(f"--policy {name[:40]!r}", f"allowed: {', '.join(POLICIES)}")
    return names


def _deployments(model: str, options: dict[str, Any]) -> list[Deployment]:
    """Return every TP size with every number of replicas."""
    shapes = [*product(sizes(options["tp"], "--tp"), sizes(options["replicas"], "--replicas"))]
    if max(replicas for _, replicas in shapes) > MAX_REPLICAS:
        raise InputError(f"--replicas {options['replicas']}", f"allowed: up to {MAX_REPLICAS:,}")
    return [deployment_of(model, options, *shape) for shape in shapes]


@click.command()
@click.argument("model")
@deployment_options
@click.option("--tp", default="1", show_default=True, help="TP sizes, e.g. 1,2,4,8.")
@click.option("--replicas", default="1", show_default=True, help="Numbers of replicas, e.g. 1,2,4.")
@click.option("--rate", required=True, help="Requests/s (sessions/s with --turns), e.g. 5,10,20.")
@click.option("--policy", default="least_loaded", show_default=True, help="One or more.")
@click.option(
    "--seeds",
    type=click.IntRange(1, MAX_SEEDS),
    default=1,
    show_default=True,
    help="Number of runs per combination.",
)
@load_options
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("simulations.sqlite"),
    show_default=True,
    help="File to save each result in; an interrupted search resumes from it.",
)
@click.option("--on", default="", help="Ray cluster, ray://host:port or auto; default: all cores.")
@WIDE
@JSON
def search(model: str, store: Path, on: str, as_json: bool, **options: Any) -> None:
    """Simulate MODEL for every TP x replicas x policy x rate, --seeds times each.

    The command can be interrupted at any point; run it again to resume.
    """
    from shardwise.api.searching import search as run
    from shardwise.api.simulation import DURATION_S

    require_effect()
    if options["duration"] is None:
        options["duration"] = DURATION_S
    on_node = options["node_file"] is not None
    put_on_node(options)
    deployments = _deployments(model, options)
    if on_node:
        require_on_node(deployments, options["catalogue_files"][-1], options["gpu"])
    found = run(
        deployments,
        request_rates=_rates(options["rate"]),
        policies=_policies(options["policy"]),
        seeds=options["seeds"],
        store=store,
        on=on,
        progress=lambda done, total: show_progress("simulated", done, total),
        **load_arguments(options),
    )
    if as_json:
        print_result(found)
    else:
        show_table(found.table())
