"""`shardwise profile`: where a step's time goes, by TP size and batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.cli.engine_extra import require_engine_extra

if TYPE_CHECKING:
    from shardwise.engine.profiling import Profile


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
@click.option("--gpu", default="cpu", show_default=True, help="Name of this hardware in the rows.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as JSON.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="CSV rows for `shardwise calibrate`."
)
def profile(
    model: Path,
    tp: str,
    batch: str,
    gpu: str,
    as_json: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Time prefill and decode of MODEL on every rank, split into attention, MLP and all-reduce.

    MODEL is a Hugging Face directory or a .gguf file. With --emulate, one GPU or CPU tells of a TP
    it does not have: the collectives are left out, and to the performance model.
    """
    require_engine_extra()
    from shardwise.engine import profiling
    from shardwise.engine.options import EngineOptions

    question = profiling.Question(
        tp_sizes=_sizes(tp, "--tp"),
        batches=_sizes(batch, "--batch"),
        **{name: given.pop(name) for name in ("isl", "osl", "repeats", "emulate")},
    )
    if output is not None and question.emulate:
        raise click.UsageError("--output takes whole deployments; --emulate leaves out collectives")
    if output is not None and not output.parent.is_dir():
        raise click.UsageError(f"--output: {output.parent} is no folder")
    results = []
    found = profiling.profile(model, question, EngineOptions(**given), _progress)
    for result in found:
        results.append((result, profiling.evidence(result, question, model.stem, gpu)))
        if not as_json:
            _print(result)
        if output is not None:  # rewritten after each, so that an interrupted run keeps its rows
            _write_rows(output, [profiling.csv_row(row) for _, row in results])
    if as_json:
        import msgspec

        rows = [{"profile": result, "evidence": row} for result, row in results]
        click.echo(msgspec.json.encode(rows).decode())


def _sizes(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"{option} is {text!r}; allowed: whole numbers above 0, as in 1,2,4")
    return tuple(sorted({int(part) for part in parts}))


def _progress(what: str) -> None:
    click.echo(f"profiling {what} …", err=True)


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    import csv

    from shardwise.engine.profiling import CSV_COLUMNS

    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _print(result: Profile) -> None:
    """Tables of one profile: parts by rank, products and messages of rank 0."""
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
