"""`shardwise up`, `status`, `logs`, `down` and `export`: run or translate a deployment file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardwise.cli.files import print_json, show_table
from shardwise.cli.options import JSON, NODE, WIDE
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.hosting.operating import Seen
    from shardwise.hosting.state import State

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@FILE
@click.option("--on", default="", help="Ray cluster for the replicas: ray://host:port.")
@NODE
def up(file: Path, on: str, node_file: Path | None) -> None:
    """Start the replicas and balancer of FILE, or apply its changes to a running deployment.

    With --node, replicas for which FILE names no devices get the GPUs with the best links.
    """
    from shardwise.hosting.operating import up as bring_up

    shown: set[tuple[str, str]] = set()

    def progress(now: State) -> None:
        for replica in now.replicas:
            if (replica.replica, replica.status) not in shown:
                shown.add((replica.replica, replica.status))
                note = f": {replica.note}" if replica.note else ""
                click.echo(f"{replica.replica} {replica.status}{note}", err=True)

    now = bring_up(file, progress, on, node_file)
    click.echo(f"{len(now.replicas)} replicas behind {now.balancer} on {now.url}")


@click.command()
@FILE
@click.option("--watch", is_flag=True, help="Refresh the table every second.")
@WIDE
@JSON
def status(file: Path, watch: bool, as_json: bool) -> None:
    """Show each replica's state, devices, memory, requests in flight and restarts."""
    from shardwise.hosting.operating import look

    if as_json:
        now, seen = look(file)
        print_json("status", status_document(now, seen))
        return
    from shardwise.cli.host_status import status_table
    from shardwise.cli.host_status import watch as keep_looking

    if watch:
        keep_looking(file)
    now, seen = look(file)
    show_table(status_table(now, seen))
    if not (now.controller and now.controller.alive):
        text = "the controller is not running: nothing is restarted until you run `shardwise up`"
        click.echo(text, err=True)


def status_document(now: State, seen: list[Seen]) -> dict[str, object]:
    """The state of a deployment for JSON."""
    controller = bool(now.controller and now.controller.alive)
    balancing = bool(now.balancer_process and now.balancer_process.alive)
    replicas = [
        {
            "replica": one.state.replica,
            "status": one.status,
            "pid": one.state.process.pid if one.state.process else None,
            "url": one.state.url,
            "devices": one.state.devices,
            "memory_bytes": one.memory_bytes,
            "in_flight": one.in_flight,
            "restarts": one.state.restarts,
            "note": one.state.note,
        }
        for one in seen
    ]
    return {
        "url": now.url,
        "balancer": now.balancer,
        "balancer_running": balancing,
        "controller_running": controller,
        "replicas": replicas,
    }


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
    from shardwise.hosting.operating import down as bring_down

    click.echo(f"{bring_down(file, grace_s)} processes stopped")


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
def export(file: Path, target: str, output: Path | None, node_file: Path | None) -> None:
    """Write FILE as compose, systemd units, Kubernetes manifests or a Ray Serve config.

    With --node, replicas for which FILE names no devices get the GPUs with the best links.
    """
    from shardwise.hosting.deployment_file import load
    from shardwise.hosting.exports import export as translate

    deployment = load(file)
    if node_file is not None:
        from shardwise.hosting.placing import placed

        deployment = placed(deployment, node_file)
    files = translate(deployment, target)
    if output is None:
        for name, text in files.items():
            sys.stdout.write(f"# {name}\n{text}" if len(files) > 1 else text)
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (output / name).write_text(text, encoding="utf-8")
            click.echo(str(output / name))
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror}") from None
