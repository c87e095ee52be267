"""`shardwise hardware`: measure this machine as hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shardwise.api.extras import require_engine_extra
from shardwise.cli.options import JSON


@click.group()
def hardware() -> None:
    """Measure this machine as an entry of the catalogue."""


@hardware.command()
@click.option(
    "--name", default="this-machine", show_default=True, help="Id of the entry, for use with --gpu."
)
@click.option(
    "--device",
    default="auto",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Device to measure; auto: a GPU if there is one.",
)
@click.option(
    "--threads-per-rank",
    default=0,
    type=click.IntRange(0),
    help="CPU threads per rank; 0: divide the cores among at most 8 ranks.",
)
@click.option(
    "--ranks",
    default=0,
    type=click.IntRange(0),
    help="Number of ranks that run at the same time; 0: all.",
)
@click.option("--short", is_flag=True, help="Use fewer repeats: faster but less precise.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write, instead of the one that every command reads.",
)
@JSON
def detect(name: str, output: Path | None, as_json: bool, **asked: Any) -> None:
    """Measure memory bandwidth, matrix rates and all-reduce, and write a hardware file.

    On CPU, one rank with its threads acts as a GPU. For ROCm GPUs, use the device cuda, as in
    torch.
    """
    require_engine_extra()
    from shardwise.cli.files import print_json, require_writable
    from shardwise.engine.detect import detect as measure
    from shardwise.hardware.measured import check_id, write
    from shardwise.hardware.user_files import hardware_folder

    path = output or hardware_folder() / f"{check_id(name)}.toml"
    check_id(name)
    require_writable(path)
    found = measure(
        asked["device"], asked["threads_per_rank"], asked["short"], _progress, asked["ranks"]
    )
    if found.was_busy:
        busy = f"the machine was busy (load {found.load_before:.1f} on {found.cores} cores)"
        click.echo(f"{busy}: measure again when it is idle", err=True)
    write(path, name, found)
    if as_json:
        print_json("hardware", {"name": name, "path": str(path), "measured": found})
        return
    click.echo(f"{found.name}: {found.what}; every value is per rank, with all ranks running")
    click.echo(f"  memory            {found.memory_bytes / 1e9:8.1f} GB")
    click.echo(f"  memory bandwidth  {found.memory_bandwidth / 1e9:8.1f} GB/s")
    for dtype, rate in found.flops.items():
        click.echo(f"  {dtype} matrices     {rate / 1e9:8.0f} GFLOP/s")
    for world, line in sorted(found.all_reduce.items()):
        click.echo(
            f"  all-reduce of {world}   {line.latency_s * 1e6:8.1f} us + "
            f"message / {line.bytes_per_s / 1e9:.1f} GB/s"
        )
    where = f"--gpu {name}" if output is None else f"--catalogue {path} --gpu {name}"
    click.echo(f"measured in {found.seconds:.0f} s; wrote {path}; use it with {where}")


def _progress(what: str) -> None:
    click.echo(f"measuring {what} …", err=True)
