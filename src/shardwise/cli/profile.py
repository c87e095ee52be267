"""`shardwise profile`: where a step's time goes, by TP size and batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.engine_extra import require_engine_extra
from shardwise.cli.files import require_writable, write_csv
from shardwise.cli.options import sizes
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.engine.profiling import Profile
    from shardwise.evidence.record import Evidence
    from shardwise.hardware.gpu import Gpu


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--tp", default="1", show_default=True, help="TP sizes, as in 1,2,4,8.")
@click.option("--batch", default="1", show_default=True, help="Batch sizes, as in 1,16.")
@click.option(
    "--isl", default=512, show_default=True, type=click.IntRange(1), help="Prompt tokens."
)
@click.option(
    "--osl", default=128, show_default=True, type=click.IntRange(2), help="Output tokens."
)
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(1, 1000))
@click.option("--emulate", is_flag=True, help="One rank's shard of each TP, without its peers.")
@click.option("--random-weights", is_flag=True, help="From config.json alone; times are the same.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--dtype", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]))
@click.option("--threads-per-rank", default=0, help="CPU threads of a rank; 0: its share of cores.")
@click.option(
    "--gpu",
    default="cpu",
    show_default=True,
    help="This hardware in the rows; one of the catalogue lets --emulate add its all-reduce.",
)
@click.option("--model-id", default="", help="The model in the rows; default: its path.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as JSON.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="CSV rows for `shardwise calibrate`."
)
def profile(
    model: Path,
    tp: str,
    batch: str,
    gpu: str,
    model_id: str,
    as_json: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Time prefill and decode of MODEL on every rank, split into attention, MLP and all-reduce.

    MODEL is a Hugging Face directory or a .gguf file. With --emulate, one GPU or CPU tells of a TP
    it does not have: the all-reduce of --gpu comes from the performance model.
    """
    require_engine_extra()
    from shardwise.engine import profile_rows, profiling
    from shardwise.engine.options import EngineOptions

    question = profiling.Question(
        tp_sizes=sizes(tp, "--tp"),
        batches=sizes(batch, "--batch"),
        **{name: given.pop(name) for name in ("isl", "osl", "repeats", "emulate")},
    )
    named = profile_rows.Named(model_id or profile_rows.model_id(model), gpu)
    if output is not None:
        require_writable(output)
        if question.emulate and max(question.tp_sizes) > 1:
            profile_rows.require_collectives(named)
    given["threads_per_rank"] = _threads(given["threads_per_rank"], named.known_gpu)
    results = []
    found = profiling.profile(model, question, EngineOptions(**given), _progress)
    for result in found:
        results.append((result, profile_rows.evidence(result, question, named)))
        if not as_json:
            _print(*results[-1])
        if output is not None:  # rewritten after each, so that an interrupted run keeps its rows
            rows = [profile_rows.csv_row(row) for _, row in results]
            write_csv(output, profile_rows.CSV_COLUMNS, rows)
    if as_json:
        import msgspec

        found_rows = [{"profile": result, "evidence": row} for result, row in results]
        click.echo(msgspec.json.encode(found_rows).decode())


def _threads(given: int, gpu: Gpu | None) -> int:
    """Threads of a rank: those the named hardware was measured with, if it is a CPU."""
    if gpu is None or gpu.vendor != "cpu":
        return given
    if given not in (0, gpu.num_compute_units):
        raise InputError(
            f"--threads-per-rank is {given}, and a rank of {gpu.id} has {gpu.num_compute_units}",
            remedy="leave it out, or measure such ranks with 'shardwise hardware detect'",
        )
    return gpu.num_compute_units


def _progress(what: str) -> None:
    click.echo(f"profiling {what} …", err=True)


def _print(result: Profile, row: Evidence) -> None:
    """Tables of one profile: parts by rank, products and messages of rank 0; then its evidence."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    kind = "one rank's shard, no peers" if result.emulated else "all ranks"
    limit = result.ceilings[0]
    console.print(
        f"\n[bold]TP={result.tp_size}, batch {result.batch}[/bold] ({kind}, {result.dtype}, "
        f"{result.device}); ceilings of a rank: copy {limit.copy_bytes_per_s / 1e9:.1f} GB/s, "
        f"matrix {limit.matrix_flops / 1e9:.0f} GFLOP/s"
    )
    parts = ("attention", "mlp", "all_reduce", "other", "total")
    table = Table("step", "rank", *(f"{part} ms" for part in parts))
    details = Table("step", "product", "x", "W", "calls", "us", "GFLOP/s", "%", "GB/s", "%")
    messages = Table("step", "all-reduce bytes", "calls", "us")
    for step, ranks in (("prefill", result.prefill), ("decode", result.decode)):
        for rank in ranks:
            cells = [f"{rank.seconds[part] * 1e3:.3f}" for part in parts]
            table.add_row(step, str(rank.tp_rank), *cells)
        for p in ranks[0].products:
            details.add_row(
                step,
                p.name,
                f"{p.rows}x{p.inputs}",
                f"{p.outputs}x{p.inputs}",
                str(p.calls),
                f"{p.seconds * 1e6:.0f}",
                f"{p.flops_per_s / 1e9:.1f}",
                f"{100 * p.flops_per_s / limit.matrix_flops:.0f}",
                f"{p.bytes_per_s / 1e9:.1f}",
                f"{100 * p.bytes_per_s / limit.copy_bytes_per_s:.0f}",
            )
        for message in ranks[0].messages:
            shown = (
                "-" if result.tp_size == 1 or result.emulated else f"{message.seconds * 1e6:.0f}"
            )
            messages.add_row(step, str(message.bytes), str(message.calls), shown)
    for each in (table, details, messages):
        console.print(each)
    shown = ", ".join(
        f"{label} {found.value * 1e3:.2f} ms ({found.lo * 1e3:.2f}–{found.hi * 1e3:.2f})"
        for label, found in (("TTFT", row.metrics["ttft_s"]), ("TPOT", row.metrics["tpot_s"]))
    )
    console.print(f"{row.source.kind}, n={row.metrics['tpot_s'].n}: {shown}; {row.source.note}")
