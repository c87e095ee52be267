"""Options shared by `bench run` and `bench sweep`: lengths, load, effort and store."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shardwise.api.loads import MAX_REQUESTS, MODES
from shardwise.cli.files import print_result, show_tables
from shardwise.cli.options import JSON, SEED, Duration, Finite, sizes
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.api.measurements import Measurements
    from shardwise.evidence.measured import Measured

F = TypeVar("F", bound=Callable[..., Any])
STORE: Final = Path("shardwise.db")
MAX_TOKENS: Final = 10_000_000  #: of a prompt or an answer
_AS_GIVEN: Final = (
    *("isl", "osl", "mode", "requests", "api", "actual_lengths", "shared_prefix", "seed"),
    *("store", "study"),
)


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
            help="Random seed of arrivals and the shared prefix; other prompt text is always new.",
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
            type=click.Choice(MODES),
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


def load_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `bench_run` and `bench_sweep` that `load_options` parsed."""
    repeats = sizes(given["repeats"], "--repeats")
    return {
        "concurrencies": sizes(given["concurrency"], "--concurrency"),
        "request_rates": _rates(given["request_rate"]) if given["request_rate"] else (),
        "min_repeats": min(repeats),
        "max_repeats": max(repeats),
        "precision_pct": given["precision"],
        "cell_time_s": given["cell_time"],
        "stall_timeout_s": given["stall_timeout"],
        "first_token_timeout_s": given["first_token_timeout"],
        "request_timeout_s": given["request_timeout"],
        **{name: given[name] for name in _AS_GIVEN},
    }


def _rates(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < rate < math.inf for rate in found):
        raise InputError(f"--request-rate is {text!r}", "allowed: requests/s above 0, as in 1,2.5")
    return found


def report_unkept(found: Measurements, store: Path) -> None:
    """Exit with 2 if a measured cell is not in its store. A message has already named the store
    that it was saved to."""
    if found.unkept:
        raise InputError(
            f"{len(found.unkept)} of {len(found.measured_now)} cells are not in {store}"
        )


def show_measurements(found: Measurements, as_json: bool) -> None:
    """Print the cells and, for several TPs, the change of each step; or JSON."""
    if as_json:
        print_result(found)
    elif found.cells:
        show_tables(found)


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
