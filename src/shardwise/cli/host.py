"""`shardwise up`, `status`, `logs`, `down` and `export`: run or translate a deployment file."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Literal

import click

from shardwise.cli.files import print_result, rendered, show_table
from shardwise.cli.options import JSON, NODE, WIDE
from shardwise.errors import InputError

Target = Literal["compose", "systemd", "kubernetes", "ray", "grafana"]
FILE = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@FILE
@click.option("--on", default="", help="Ray cluster for the replicas: ray://host:port.")
@NODE
def up(file: Path, on: str, node_file: Path | None) -> None:
    """Start the replicas and balancer of FILE, or apply its changes to a running deployment.

    With --node, replicas for which FILE names no devices get the GPUs with the best links.
    """
    from shardwise.api.hosting import up as bring_up

    running = bring_up(
        file, on=on, node_file=node_file, say=lambda line: click.echo(line, err=True)
    )
    now = running.state
    click.echo(f"{len(now.replicas)} replicas behind {now.balancer} on {now.url}")


@click.command()
@FILE
@click.option("--watch", is_flag=True, help="Refresh the table every second.")
@WIDE
@JSON
def status(file: Path, watch: bool, as_json: bool) -> None:
    """Show each replica's state, devices, memory, requests in flight and restarts."""
    from shardwise.api.hosting import status as look

    if watch and not as_json:
        _keep_looking(file)
    found = look(file)
    if as_json:
        print_result(found)
        return
    show_table(found.table())
    if not found.is_supervised:
        text = "the controller is not running: nothing is restarted until you run `shardwise up`"
        click.echo(text, err=True)


def _keep_looking(file: Path) -> None:
    """Refresh every second until interrupted: in place in a terminal, table after table when
    piped."""
    from shardwise.api.hosting import status as look
    from shardwise.reports.status_tables import LOOKS, status_table

    history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LOOKS))
    drawn = 0  # lines to go up before the next table
    while True:
        found = look(file)
        for one in found.replicas:
            busy = math.nan if one.in_flight is None else float(one.in_flight)
            history[one.state.replica].append(busy)
        text = rendered(status_table(found.state, found.replicas, history))
        sys.stdout.write(f"\x1b[{drawn}A\x1b[J{text}" if drawn else text)
        sys.stdout.flush()
        drawn = text.count("\n") if sys.stdout.isatty() else 0
        time.sleep(1.0)


@click.command()
@FILE
@click.argument("replica", default="")
@click.option(
    "-n",
    "--lines",
    default=20,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Number of lines to show per log.",
)
def logs(file: Path, replica: str, lines: int) -> None:
    """Show the last log lines of REPLICA ("model/0", "balancer" or "controller"), or of all."""
    from shardwise.hosting import state

    found = sorted((state.folder(file) / "logs").glob("*.log"))
    if not found:
        raise InputError(f"nothing was started from {file}", remedy=f"shardwise up {file}")
    names = [path.stem for path in found]
    if replica and replica.replace("/", "-") not in names:
        raise InputError(f"no log of {replica!r}", f"allowed: {', '.join(names)}")
    for path in found:
        if replica and path.stem != replica.replace("/", "-"):
            continue
        if not replica:
            click.echo(f"==> {path.stem} <==")
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        click.echo("\n".join(text[-lines:]))


@click.command()
@FILE
@click.option(
    "--grace",
    "grace_s",
    default=30.0,
    show_default=True,
    help="Seconds to wait for running streams.",
)
def down(file: Path, grace_s: float) -> None:
    """Stop everything that `up` started for FILE."""
    from shardwise.api.hosting import down as bring_down

    click.echo(f"{bring_down(file, grace_s=grace_s)} processes stopped")


@click.command()
@FILE
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["compose", "systemd", "kubernetes", "ray", "grafana"]),
    help="Format to translate the deployment to.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write to; default: stdout."
)
@NODE
def export(file: Path, target: Target, output: Path | None, node_file: Path | None) -> None:
    """Write FILE as compose, systemd units, Kubernetes manifests or a Ray Serve config.

    With --node, replicas for which FILE names no devices get the GPUs with the best links.
    """
    from shardwise.api.hosting import export as translate

    files = translate(file, to=target, folder=output, node_file=node_file)
    for name, text in files.items():
        if output is None:
            sys.stdout.write(f"# {name}\n{text}" if len(files) > 1 else text)
        else:
            click.echo(str(output / name))
