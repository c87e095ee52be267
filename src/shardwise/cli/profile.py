"""`shardwise profile`: time of a step by component, TP size and batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise import metrics
from shardwise.cli.engine_extra import require_engine_extra
from shardwise.cli.files import print_json, require_writable, say, show_table, write_csv
from shardwise.cli.model_folder import model_folder
from shardwise.cli.options import COMPUTE_DTYPE, DEVICE, JSON, NODE, WIDE, put_on_node, sizes
from shardwise.errors import InputError
from shardwise.reports.numbers import quantity

if TYPE_CHECKING:
    from shardwise.engine.profiling import Profile
    from shardwise.evidence.record import Evidence
    from shardwise.hardware.gpu import Gpu


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
    default="cpu",
    show_default=True,
    help="Hardware name in the rows; for a catalogue GPU, --emulate adds its all-reduce.",
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
    gpu: str,
    node_file: Path | None,
    model_id: str,
    as_json: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Time prefill and decode of MODEL on each rank, split into attention, MLP and all-reduce.

    MODEL is a Hugging Face folder, a .gguf file, or a bundled id (llama-51m) with random weights.
    --emulate profiles a larger TP on one GPU or CPU; the performance model supplies the all-reduce
    of --gpu.
    """
    require_engine_extra()
    from shardwise.engine import profile_rows, profiling
    from shardwise.engine.options import EngineOptions

    question = profiling.Question(
        tp_sizes=sizes(tp, "--tp"),
        batches=sizes(batch, "--batch"),
        **{name: given.pop(name) for name in ("isl", "osl", "repeats", "emulate")},
    )
    hardware: dict[str, Any] = {"gpu": gpu, "node_file": node_file, "catalogue_files": ()}
    put_on_node(hardware)
    at, files = Path(model), hardware["catalogue_files"]
    name = model_id or (profile_rows.model_id(at) if at.exists() else model)
    named = profile_rows.Named(name, hardware["gpu"], files)
    if output is not None:
        require_writable(output)
        if question.emulate and max(question.tp_sizes) > 1:
            profile_rows.require_collectives(named)
    given["threads_per_rank"] = _threads(given["threads_per_rank"], named.known_gpu)
    results = []
    with model_folder(model, given.pop("random_weights")) as (path, random):
        engine = EngineOptions(**given, random_weights=random)
        for result in profiling.profile(path, question, engine, _progress):
            results.append((result, profile_rows.evidence(result, question, named)))
            if not as_json:
                _print(*results[-1])
            if output is not None:  # rewritten after each cell: an interrupted run keeps its rows
                rows = [profile_rows.csv_row(row) for _, row in results]
                write_csv(output, profile_rows.CSV_COLUMNS, rows)
    if as_json:
        pairs = [{"profile": result, "evidence": row} for result, row in results]
        print_json("profile", {"profiles": pairs})


def _threads(given: int, gpu: Gpu | None) -> int:
    """Return the threads per rank; for a measured CPU, those it was measured with."""
    if gpu is None or gpu.vendor != "cpu":
        return given
    if given not in (0, gpu.num_compute_units):
        raise InputError(
            f"--threads-per-rank is {given}, but a rank of {gpu.id} has {gpu.num_compute_units}",
            remedy="omit it, or measure such ranks with 'shardwise hardware detect'",
        )
    return gpu.num_compute_units


def _progress(what: str) -> None:
    click.echo(f"profiling {what} …", err=True)


def _print(result: Profile, row: Evidence) -> None:
    """Print the tables of one profile, then its evidence."""
    from shardwise.reports.profile_tables import profile_tables

    for table in profile_tables(result):
        show_table(table)
    shown = ", ".join(
        f"{metrics.ALL[name].label} {quantity(row.metrics[name], 's')}"
        for name in ("ttft_s", "tpot_s")
    )
    say(f"{row.source.kind}: {shown}; {row.source.note}\n")
