"""`shardwise doctor`: read and diagnose a node, from its tools or from pasted text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.files import print_result, say, show_table
from shardwise.cli.options import JSON, WIDE
from shardwise.errors import InputError, ShardwiseError, printable

if TYPE_CHECKING:
    from shardwise.doctor.diagnosis import Diagnosis
    from shardwise.doctor.startup_check import Comparison
    from shardwise.node.reading.read import Reading


@click.command()
@click.option(
    "--from",
    "sources",
    type=click.Path(allow_dash=True),
    multiple=True,
    help="Read pasted text from FILE instead of this machine; - is stdin; repeatable.",
)
@click.argument("more", nargs=-1, type=click.Path(allow_dash=True))
@click.option(
    "--node",
    "node_file",
    type=click.Path(path_type=Path),
    help="Read a node file written by --save.",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(["vllm", "sglang"]),
    multiple=True,
    help="Engine to report the all-reduce of; default: both.",
)
@click.option("--gpu", default="", help="GPU name, if the text does not contain it.")
@click.option(
    "--model", default="", help="Model of a start-up log, to compare it with a prediction."
)
@click.option(
    "--tp", default=0, type=click.IntRange(0), help="TP size, if the log does not state it."
)
@click.option(
    "--pp",
    default=0,
    type=click.IntRange(0),
    help="Number of pipeline stages, if the log does not state it.",
)
@click.option(
    "--dtype",
    default="auto",
    help="Dtype that the log's weights were loaded in; auto: the checkpoint's.",
)
@click.option(
    "--engine-version", default="", help="Version of the engine of a log that does not say it."
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the node to a TOML file for --node."
)
@click.option("--measure", is_flag=True, help="Measure memory bandwidth and all-reduce with torch.")
@WIDE
@JSON
def doctor(
    sources: tuple[str, ...],
    more: tuple[str, ...],
    node_file: Path | None,
    engines: tuple[str, ...],
    save: Path | None,
    measure: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Report which GPUs to use for each TP size, their all-reduce, and what to change.

    Runs this machine's tools, or reads pasted output with --from FILE: nvidia-smi, nvidia-smi topo
    -m, rocm-smi --showtopo, amd-smi topology, lscpu, vLLM's collect_env, and start-up logs of vLLM
    and SGLang. It changes nothing.
    """
    from shardwise.api.diagnosing import diagnose
    from shardwise.cli.pasted import pasted
    from shardwise.node.reading.read import require_whole

    if more and not sources:
        raise InputError(f"unexpected argument {more[0][:80]!r}", remedy="pass --from FILE...")
    given = (*sources, *more)
    if given and node_file is not None:
        raise InputError("--node and --from are both given", "allowed: one of them")
    found = diagnose(
        {"stdin" if source == "-" else source: pasted(source) for source in given},
        node_file=node_file,
        gpu=asked["gpu"],
        engines=engines,
        model=asked["model"],
        tp_size=asked["tp"],
        pp_size=asked["pp"],
        dtype=asked["dtype"],
        engine_version=asked["engine_version"],
    )
    try:  # the file first: a reader such as `head` may close the output early
        if save is not None:
            found.save(save)
    finally:
        if as_json:
            print_result(found)
        else:
            _show(found.diagnosis, found.engines, found.compared)
    if save is not None:
        click.echo(f"wrote {save}; use it with --node {save}", err=True)
    if measure:
        _measure()
    require_whole(found.reading)


def _show(found: Diagnosis, engines: tuple[str, ...], compared: tuple[Comparison, ...]) -> None:
    from shardwise.reports.doctor_tables import (
        device_table,
        link_table,
        startup_table,
        verdict_table,
    )

    reading = found.reading
    node = reading.node
    has_gpus = node is not None and bool(node.devices)
    if reading.versions and (has_gpus or reading.source != "this machine"):
        say(_versions(reading))
    if node is not None and node.devices:
        show_table(device_table(node))
        if node.links:
            show_table(link_table(node))
            show_table(verdict_table(found, engines))
    elif reading.source == "this machine":
        say(
            f"no GPU on this machine ({_about(reading)}); read another machine's output with "
            f"--from FILE"
        )
    elif not reading.startups:
        say(f"no GPUs and links in {reading.source} ({_about(reading)})")
    if reading.nccl is not None:
        used = ", ".join(f"{k} {n}x" for k, n in sorted(reading.nccl.transports.items()))
        say(f"NCCL: {reading.nccl.ranks} ranks, {used}")
    if reading.startups:
        show_table(startup_table(reading.startups))
    for line in (line for comparison in compared for line in comparison.lines()):
        say(line)
    for finding in found.findings:
        say(f"{finding.severity}: {finding.what}")
        say(f"  why: {finding.why}")
        if finding.remedy:
            say(f"  do: {finding.remedy}")
    for problem in reading.problems:
        click.echo(printable(f"note: {problem}"), err=True)


def _versions(reading: Reading) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(reading.versions.items()))


def _about(reading: Reading) -> str:
    """Describe a machine whose tools name no GPU."""
    from shardwise.node.node import Host

    host = reading.node.host if reading.node is not None else Host()
    known = [
        host.cpu_name,
        f"{host.sockets} socket{'s' if host.sockets != 1 else ''}" if host.sockets else "",
        f"{len(host.numa_cpus)} NUMA node{'s' if len(host.numa_cpus) != 1 else ''}"
        if host.numa_cpus
        else "",
        f"virtual machine ({host.hypervisor})" if host.hypervisor else "",
        _versions(reading) if reading.source == "this machine" else "",
    ]
    unknown = (
        "no supported tool found" if reading.source == "this machine" else "no host information"
    )
    return ", ".join(part for part in known if part) or unknown


def _measure() -> None:
    """Measure memory bandwidth and all-reduce of this machine, as `hardware detect` does."""
    from shardwise.api.extras import require_engine_extra

    require_engine_extra()
    from shardwise.engine.detect import detect

    try:
        seen = detect("auto", 0, True, lambda what: click.echo(f"measuring {what} …", err=True))
    except RuntimeError as error:
        raise ShardwiseError(f"torch cannot measure here: {error}") from None
    click.echo(f"measured ({seen.what}): {seen.memory_bandwidth / 1e9:.0f} GB/s of memory per rank")
    for world, line in sorted(seen.all_reduce.items()):
        click.echo(
            f"  torch.distributed all-reduce of {world}: {line.latency_s * 1e6:.1f} us + "
            f"message / {line.bytes_per_s / 1e9:.1f} GB/s"
        )
