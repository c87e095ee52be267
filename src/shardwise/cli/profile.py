"""`shardwise profile`: time of a step by component, TP size and batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise import metrics
from shardwise.cli.files import print_result, require_writable, say, show_table
from shardwise.cli.options import COMPUTE_DTYPE, DEVICE, JSON, NODE, WIDE, sizes
from shardwise.reports.numbers import quantity

if TYPE_CHECKING:
    from shardwise.api.profiling import StepProfile


@click.command()
@click.argument("model")
@click.option("--tp", default="1", show_default=True, help="TP sizes, e.g. 1,2,4,8.")
@click.option("--batch", default="1", show_default=True, help="Batch sizes, e.g. 1,16.")
@click.option(
    "--isl",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="Prompt tokens per request.",
)
@click.option(
    "--osl",
    default=128,
    show_default=True,
    type=click.IntRange(2),
    help="Output tokens per request.",
)
@click.option(
    "--repeats",
    default=10,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Number of timed runs of each step.",
)
@click.option("--emulate", is_flag=True, help="Run only rank 0's shard of each TP.")
@click.option(
    "--random-weights",
    is_flag=True,
    help="Use random weights from config.json; times are the same.",
)
@DEVICE
@COMPUTE_DTYPE
@click.option(
    "--threads-per-rank", default=0, help="CPU threads per rank; 0: an equal share of the cores."
)
@click.option(
    "--gpu",
    default="",
    help="Hardware name in the rows; default: cpu, or that of --node. For a catalogue GPU, "
    "--emulate adds its all-reduce.",
)
@NODE
@click.option("--model-id", default="", help="Model id in the rows; default: its path.")
@WIDE
@JSON
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="CSV rows for `shardwise calibrate`."
)
def profile(
    model: str,
    tp: str,
    batch: str,
    as_json: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Time prefill and decode of MODEL on each rank, split into attention, MLP and all-reduce.

    MODEL is a Hugging Face folder, a .gguf file, or a bundled id (llama-51m) with random weights.
    --emulate profiles a larger TP on one GPU or CPU; the performance model supplies the all-reduce
    of --gpu.
    """
    from shardwise.api.profiling import profile_steps

    tp_sizes, batches = sizes(tp, "--tp"), sizes(batch, "--batch")
    if output is not None:
        require_writable(output)
    found = profile_steps(
        model,
        tp_sizes=tp_sizes,
        batches=batches,
        rows_file=output,
        say=lambda line: click.echo(line, err=True),
        done=(lambda _: None) if as_json else _print,
        **given,
    )
    if as_json:
        print_result(found)


def _print(one: StepProfile) -> None:
    """Print the tables of one profile, then its evidence."""
    from shardwise.reports.profile_tables import profile_tables

    row = one.evidence
    for table in profile_tables(one.profile):
        show_table(table)
    shown = ", ".join(
        f"{metrics.ALL[name].label} {quantity(row.metrics[name], 's')}"
        for name in ("ttft_s", "tpot_s")
    )
    say(f"{row.source.kind}: {shown}; {row.source.note}\n")
