"""`shardwise bench selftest`: check the load client against a server with known delays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shardwise.cli.files import show_table
from shardwise.cli.options import JSON, WIDE, sizes

if TYPE_CHECKING:
    from shardwise.bench.selftest import SelfTest
    from shardwise.reports.table import Table


@click.command()
@click.option(
    "--concurrency",
    default="1,16,128,512",
    show_default=True,
    help="Numbers of concurrent streams, e.g. 1,16,128.",
)
@WIDE
@JSON
def selftest(concurrency: str, as_json: bool) -> None:
    """Measure a bundled server with known delays (TTFT 50 ms, a token every 10 ms).

    Exits with 1 if the error of the client is above 2 % in TTFT, or 1 % in ITL or E2E latency.
    """
    from shardwise.bench.selftest import selftest as run_selftest

    found: list[SelfTest] = []
    for result in run_selftest(sizes(concurrency, "--concurrency")):
        found.append(result)
        click.echo(f"{result.concurrency} streams done", err=True)
    if as_json:
        from shardwise.cli.files import print_json

        print_json("bench_selftest", {"selftest": [result.as_json() for result in found]})
    else:
        show_table(selftest_table(found))
    if not all(result.within for result in found):
        sys.exit(1)


def selftest_table(found: list[SelfTest]) -> Table:
    """Return a row per number of streams: errors of the client, its cost and the verdict."""
    from shardwise import metrics
    from shardwise.reports.table import Cell, Column, Table, text_cell

    labels = {"ttft_s": metrics.TTFT.label, "itl_s": "ITL", "e2e_latency_s": metrics.E2E.label}
    rows = []
    for result in found:
        errors = {r.metric: r for r in result.readings}
        rows.append(
            (
                text_cell(result.concurrency, "strong"),
                *(
                    Cell(
                        f"{100 * errors[m].error:+.2f} %",
                        100 * errors[m].error,
                        tone="plain" if errors[m].within else "worse",
                        detail=f"({errors[m].measured_s * 1e3:.2f} ms)",
                    )
                    for m in labels
                ),
                text_cell(f"{result.cpu_s_per_1000_tokens:.4f}"),
                text_cell(f"{result.client.lag_p99_s * 1e3:.2f}"),
                text_cell(f"{result.completed}/{result.requests}"),
                text_cell("ok" if result.within else "out of tolerance"),
            )
        )
    columns = (
        Column("streams", "concurrency"),
        *(Column(label, f"{name}_error_pct", "error") for name, label in labels.items()),
        Column("CPU", "cpu_s_per_1000_tokens", "s/1,000 tokens", optional=2),
        Column("receive lag", "lag_p99_ms", "p99, ms", optional=1),
        Column("completed", "completed"),
        Column("verdict", "verdict", align="left"),
    )
    return Table(
        "selftest",
        "The load client against a server with known delays",
        columns,
        tuple((row,) for row in rows),
        ("error: of the mean, relative to the server's send times; tolerances 2, 1 and 1 %",),
    )
