"""Options shared by `bench run` and `bench sweep`: lengths, load, effort and store."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from msgspec.structs import replace

from shardwise.cli.files import show_table
from shardwise.cli.options import JSON, SEED, Duration, Finite, sizes
from shardwise.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from shardwise.bench.cell import Effort
    from shardwise.evidence.measured import Measured
    from shardwise.evidence.store import Store
    from shardwise.workload.workload import Workload

F = TypeVar("F", bound=Callable[..., Any])
STORE: Final = Path("shardwise.db")
UNKNOWN, OTHER = "unknown", "other"
MAX_TOKENS: Final = 10_000_000  #: of a prompt or an answer
MAX_REQUESTS: Final = 1_000_000  #: of a run; all its prompts are built beforehand


def load_options(command: F) -> F:
    """--isl, --osl, --concurrency, --request-rate, --mode, effort, seed, --store."""
    for option in (
        JSON,
        click.option(
            "--study", default="bench", show_default=True, help="Name of the study in the store."
        ),
        click.option(
            "--store",
            type=click.Path(path_type=Path),
            default=STORE,
            show_default=True,
            help="Store file to write the results to.",
        ),
        click.option(
            "--seed",
            type=SEED,
            default=0,
            show_default=True,
            help="Random seed of prompts and arrivals.",
        ),
        click.option(
            "--actual-lengths",
            is_flag=True,
            help="Accept answers of any length up to --osl, for servers that ignore ignore_eos.",
        ),
        click.option(
            "--request-timeout",
            type=Duration(),
            default="1h",
            show_default=True,
            help="Time after which a request fails, e.g. 10m.",
        ),
        click.option(
            "--first-token-timeout",
            type=Duration(),
            help="Longest wait for the first token, e.g. 60s; default: --stall-timeout.",
        ),
        click.option(
            "--stall-timeout",
            type=Duration(),
            default="2m",
            show_default=True,
            help="Time without an event after which a request fails; comments do not count.",
        ),
        click.option(
            "--cell-time",
            type=Duration(),
            help="Time of a cell after which no repeat is started, e.g. 5m.",
        ),
        click.option(
            "--precision",
            type=Finite(0, 100, min_open=True),
            default=5.0,
            show_default=True,
            help="Target half-width of the intervals, in %.",
        ),
        click.option(
            "--repeats",
            default="3,5",
            show_default=True,
            help="Minimum and maximum number of runs per cell.",
        ),
        click.option(
            "--requests",
            type=click.IntRange(0, MAX_REQUESTS),
            default=0,
            help="Requests per run; 0: ten per slot, or 64 at a rate.",
        ),
        click.option(
            "--shared-prefix",
            type=click.IntRange(0),
            default=0,
            help="Length of the prefix shared by all prompts, in tokens.",
        ),
        click.option(
            "--api",
            type=click.Choice(["completions", "chat"]),
            default="completions",
            help="OpenAI endpoint to call.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["closed_loop", "static_batch"]),
            default="closed_loop",
            show_default=True,
            help="closed_loop keeps the batch in flight; static_batch runs it once.",
        ),
        click.option(
            "--request-rate", help="Requests/s with Poisson arrivals instead, e.g. 1,2,4."
        ),
        click.option(
            "--concurrency",
            default="1,4,16",
            show_default=True,
            help="Requests in flight, one cell per value, e.g. 1,4,16.",
        ),
        click.option(
            "--osl",
            type=click.IntRange(1, MAX_TOKENS),
            default=128,
            show_default=True,
            help="Output tokens per request.",
        ),
        click.option(
            "--isl",
            type=click.IntRange(1, MAX_TOKENS),
            default=512,
            show_default=True,
            help="Input tokens per request.",
        ),
    ):
        command = option(command)
    return command


def workloads(given: dict[str, Any]) -> tuple[Workload, ...]:
    """Return a workload for each concurrency, or for each request rate."""
    from shardwise.workload.workload import Workload

    slots = sizes(given["concurrency"], "--concurrency")
    isl, osl, mode = given["isl"], given["osl"], given["mode"]
    if not given["request_rate"]:
        return tuple(Workload(isl, osl, slot, mode) for slot in slots)
    if mode == "static_batch":
        raise InputError("--request-rate with --mode static_batch", "allowed: one of them")
    return tuple(
        Workload(isl, osl, max(slots), request_rate=rate) for rate in _rates(given["request_rate"])
    )


def _rates(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < rate < math.inf for rate in found):
        raise InputError(f"--request-rate is {text!r}", "allowed: requests/s above 0, as in 1,2.5")
    return found


def effort_of(given: dict[str, Any]) -> Callable[[Workload], Effort]:
    """Return the measuring effort of each workload."""
    from shardwise.bench.cell import Effort

    repeats = sizes(given["repeats"], "--repeats")

    def effort(workload: Workload) -> Effort:
        slots = workload.concurrency
        usual = 64 if workload.request_rate is not None else 10 * slots
        requests = given["requests"] or usual
        if workload.mode == "static_batch":
            requests = slots
        return Effort(
            requests=max(requests, slots),
            min_repeats=min(repeats),
            max_repeats=max(repeats),
            precision=given["precision"] / 100.0,
            budget_s=given["cell_time"] or math.inf,
            stall_timeout_s=given["stall_timeout"],
            first_token_timeout_s=given["first_token_timeout"] or math.inf,
            request_timeout_s=given["request_timeout"],
        )

    return effort


def require_names(gpu: str, engine: str, dtype: str) -> None:
    """Raise UnknownNameError for names that results cannot be compared by. A name must be known,
    or say that it is unknown."""
    from shardwise.architecture.formats import DTYPES
    from shardwise.engines.registry import names
    from shardwise.hardware.catalogue import default_catalogue

    if engine not in (*names(), OTHER, UNKNOWN):
        raise UnknownNameError("engine", engine, (*names(), OTHER, UNKNOWN))
    dtypes = ("auto", *DTYPES, "fp4")
    if dtype not in dtypes:
        raise UnknownNameError("dtype", dtype, dtypes)
    if gpu not in ("cpu", UNKNOWN):
        default_catalogue().gpu(gpu)


def report_unkept(cells: Sequence[Measured], store: Store) -> None:
    """Exit with 2 if a measured cell is not in its store. A message has already named the store
    that it was saved to."""
    unkept = [cell for cell in cells if cell.repeats and not store.has(cell.study, cell.key)]
    if unkept:
        raise InputError(f"{len(unkept)} of {len(cells)} cells are not in {store.path}")


def show_cells(cells: Sequence[Measured], as_json: bool) -> None:
    """Print the cells and, for several TPs, the change of each step; or JSON."""
    if as_json:
        from shardwise.cli.files import print_json

        # raw requests stay in the store: they would be a hundred times as large as the rest
        print_json("bench", {"cells": [replace(cell, repeats=()) for cell in cells]})
        return
    from shardwise import metrics
    from shardwise.analysis.grid import index
    from shardwise.analysis.transitions import transitions
    from shardwise.reports.measured_tables import measured_table
    from shardwise.reports.tables import transitions_table

    show_table(measured_table(cells))
    usable = [c.evidence for c in cells if c.usable]
    closed = [e for e in usable if e.workload.request_rate is None]
    if len({e.deployment.tp_size for e in closed}) > 1:
        names = (metrics.E2E, metrics.TTFT, metrics.TPOT, metrics.OUTPUT_THROUGHPUT)
        steps = transitions(index(closed), [metric.name for metric in names])
        if steps:
            show_table(transitions_table(steps))


def exit_if_nothing(cells: Sequence[Measured]) -> None:
    """Exit with 4 if no request of any cell completed, with 130 if interrupted."""
    if any(cell.conditions.get("interrupted") for cell in cells):
        click.echo("shardwise: interrupted; finished measurements are saved", err=True)
        sys.exit(130)
    if cells and not any(cell.conditions.get("completed") for cell in cells):
        failures = {k: v for c in cells for k, v in (c.conditions.get("failures") or {}).items()}
        listed = ", ".join(f"{count} {kind}" for kind, count in failures.items())
        hint = (
            "; --actual-lengths accepts answers that end early"
            if set(failures) == {"short"}
            else ""
        )
        click.echo(f"shardwise: no request completed: {listed}{hint}", err=True)
        sys.exit(4)
