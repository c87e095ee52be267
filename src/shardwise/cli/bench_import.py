"""`shardwise bench import`: import results of other tools into a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardwise.api.benchmarking import UNKNOWN, require_names
from shardwise.cli.bench_options import STORE
from shardwise.cli.options import Finite
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.evidence.record import Evidence
    from shardwise.perfmodel.rows import Problem

_TOKENS = Finite(1, 10_000_000)


@click.command(name="import")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=STORE,
    show_default=True,
    help="Store to write the results to.",
)
@click.option(
    "--study", default="imported", show_default=True, help="Name of the study in the store."
)
@click.option("--model", default="", help="Model id; overrides the file's.")
@click.option("--gpu", default="", help="GPU id, if the file does not name it.")
@click.option("--engine", default="", help="Engine, if the file does not name it.")
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1, 64),
    default=None,
    help="TP size, if the file does not state it.",
)
@click.option(
    "--dtype", "weight_dtype", default="", help="Weight dtype, if the file does not state it."
)
@click.option("--isl", type=_TOKENS, default=None, help="Mean input tokens per request.")
@click.option("--osl", type=_TOKENS, default=None, help="Mean output tokens per request.")
def import_(files: tuple[Path, ...], store: Path, study: str, **said: Any) -> None:
    """Import result FILES of vLLM, SGLang, aiperf, guidellm or InferenceX into the store.

    CSV rows as written by `bench export` are accepted too. Each conversion of a metric is noted in
    the result.
    """
    from shardwise.bench.importers.about import About
    from shardwise.bench.importers.reading import read_file
    from shardwise.cli.rows import report_problems
    from shardwise.evidence.measured import Measured
    from shardwise.evidence.store import open_store

    require_names(said["gpu"] or UNKNOWN, said["engine"] or UNKNOWN, said["weight_dtype"] or "auto")
    about = About(**{name: value for name, value in said.items() if value})
    read = [(path, *read_file(path, about)) for path in files]
    if not any(found for _, found, _ in read):
        raise InputError(f"no result in {', '.join(map(str, files))}", "; ".join(_reasons(read)))
    with open_store(store) as opened:
        for path, found, problems in read:
            for number, item in enumerate(found, start=1):
                opened.put(
                    Measured(
                        study,
                        f"{path.name}#{number}",
                        item,
                        {"imported_from": str(path), "completed": item.workload.requests or 1},
                    )
                )
            report_problems(problems)
            click.echo(f"{path}: {len(found)} results", err=True)
    for note in dict.fromkeys(e.source.note for _, found, _ in read for e in found):
        click.echo(f"note: {note}", err=True)


def _reasons(read: list[tuple[Path, list[Evidence], list[Problem]]]) -> list[str]:
    """Say why each file gave no result: its first bad row, and the number of bad rows."""
    found = []
    for path, _, problems in read:
        if not problems:
            found.append(f"{path.name}: its rows have no measured values")
            continue
        first, more = problems[0], len(problems) - 1
        rest = f" (and {more} more rows)" if more else ""
        found.append(f"{path.name} row {first.number}: {first.reason}{rest}")
    return found
