"""`shardwise compare`: is run B slower than run A?"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shardwise.cli.files import print_result, require_writable, show_tables, write_result
from shardwise.cli.options import JSON, WIDE
from shardwise.errors import InputError

if TYPE_CHECKING:
    from shardwise.analysis.comparison import Comparison

SLOWER: Final = 1  #: exit code with --fail-if-slower
_PERCENT: Final = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*")


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--study-a", default="", help="Study of the store RUN_A; default: all its cells.")
@click.option("--study-b", default="", help="Study of the store RUN_B; default: all its cells.")
@click.option(
    "--fail-if-slower",
    metavar="PERCENT",
    help="Exit with 1 if B is slower by this much or more, e.g. 5%.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Also write the JSON document to this file.",
)
@WIDE
@JSON
def compare(
    run_a: Path,
    run_b: Path,
    study_a: str,
    study_b: str,
    fail_if_slower: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare RUN_B with the earlier RUN_A, overall and for each common cell.

    A run is a store written by 'shardwise bench', a folder written by 'shardwise study -o', or a
    JSON file of evidence. A verdict needs intervals on both sides, so measure with repeats.

    Exit codes: 1 if B is slower with --fail-if-slower, 2 for bad input, otherwise 0.
    """
    from shardwise.api.comparing import compare as compare_files

    limit = None if fail_if_slower is None else _percent(fail_if_slower)
    if output is not None:
        require_writable(output)
    found = compare_files(run_a, run_b, study_a=study_a, study_b=study_b)
    if output is not None:
        write_result(found, output)
    if as_json:
        print_result(found)
    else:
        show_tables(found)
    if limit is not None:
        _gate(found.comparison, limit)


def _gate(found: Comparison, limit_pct: float) -> None:
    """Report slowdowns beyond the limit on stderr and exit with 1, or report what could not be
    detected."""
    from shardwise import metrics
    from shardwise.analysis.comparison import blind_at, slower_by
    from shardwise.reports.comparison_tables import change_line

    slower = slower_by(found, limit_pct)
    for change in slower:
        click.echo(change_line(change), err=True)
    if slower:
        sys.exit(SLOWER)
    blind = ", ".join(metrics.ALL[c.metric].label for c in blind_at(found, limit_pct))
    if blind:
        click.echo(
            f"a slowdown of {limit_pct:g} % could be undetected in {blind}: run more repeats",
            err=True,
        )


def _percent(text: str) -> float:
    match = _PERCENT.fullmatch(text)
    if match is None or float(match.group(1)) == 0:
        raise InputError(
            f"--fail-if-slower is {text[:40]!r}", "allowed: a percentage above 0, e.g. 5%"
        )
    return float(match.group(1))
