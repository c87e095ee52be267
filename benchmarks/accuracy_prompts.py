"""How long does a prompt hold decodes up? A section of docs/accuracy.md.

    python benchmarks/accuracy_prompts.py    print the section

Two rows that differ only in the length of their answers have equal steps, but with shorter answers
more prompts come between them. So the difference of their TPOT says how long a prompt holds up the
decodes of others: with C streams, each of a request's tokens waits for (C - 1) / osl prompts. The
decode steps of longer answers have more context; the predicted difference is taken off. The fit
sees single rows, not these differences. Needs the reference rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.profiles import Profile, bundled_profile
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.serving_steps import decode_step
from shardwise.reports.table import Column, Table, markdown, text_cell

#: Fewest streams: of fewer, noise of the difference is divided by too few prompts.
FEWEST_STREAMS: Final = 8
LONGER: Final = 2.0  #: answers of a pair differ by this factor or more
FEWEST_PAIRS: Final = 3  #: of a line of the table
NAMES: Final = ("model", "GPU", "engine", "prompts as", "pairs", "measured", "predicted")
LEFT: Final = 4  #: columns of text


class Run(msgspec.Struct, frozen=True):
    """A row: TPOT measured and predicted, and its decode step alone. Seconds."""

    row: Row
    tpot_s: float
    predicted_s: float
    decode_s: float


class Pair(msgspec.Struct, frozen=True):
    """Seconds for which a prompt of a row holds decodes up."""

    row: Row
    measured_s: float
    predicted_s: float


def pairs(batches: Iterable[Batch], profile: Profile) -> Iterator[Pair]:
    """Pairs of rows whose lengths vary a little, so that prompts come one by one."""
    for batch in batches:
        loads: dict[tuple[object, ...], list[Run]] = {}
        for run in _runs(batch, profile):
            row = run.row
            key = (row.layout, row.concurrency, round(row.isl), ran_as_graphs(row))
            loads.setdefault(key, []).append(run)
        for runs in loads.values():
            short, long = (pick(runs, key=lambda r: r.row.osl) for pick in (min, max))
            if long.row.osl >= LONGER * short.row.osl:
                yield _pair(short, long)


def ran_as_graphs(row: Row) -> bool:
    """Whether the source's script asks for CUDA graphs of prompts as long as the row's. Without it,
    engines capture shorter ones."""
    return row.recipe.graph_tokens >= row.isl


def _runs(batch: Batch, profile: Profile) -> Iterator[Run]:
    if batch.key.mode != "closed_loop":
        return
    coefficients = profile.hierarchy.coefficients(*batch.identity)
    served = batch.serve(coefficients)
    decode = decode_step(batch.setting(coefficients), batch.load, batch.load.concurrency).total
    for i, row in enumerate(batch.rows):
        varied = row.lengths_told and row.length_cv > 0.0
        if varied and row.concurrency >= FEWEST_STREAMS and "tpot_s" in row.observed:
            yield Run(row, row.observed["tpot_s"], float(served.tpot_s[i]), float(decode[i]))


def _pair(short: Run, long: Run) -> Pair:
    row = short.row
    more = (row.concurrency - 1.0) * (1.0 / row.osl - 1.0 / long.row.osl)
    context = short.decode_s - long.decode_s
    return Pair(
        row,
        (short.tpot_s - long.tpot_s - context) / more,
        (short.predicted_s - long.predicted_s - context) / more,
    )


def table(found: Iterable[Pair]) -> Table:
    """Return medians by model, GPU, engine, and whether prompts ran as CUDA graphs."""
    lines: dict[tuple[str, ...], list[Pair]] = {}
    for pair in found:
        row = pair.row
        key = (row.model, row.gpu, row.engine, "graphs" if ran_as_graphs(row) else "launches")
        lines.setdefault(key, []).append(pair)
    body = [
        (*key, str(len(some)), _median_ms([p.measured_s for p in some]), _median_ms([
            p.predicted_s for p in some
        ]))
        for key, some in sorted(lines.items())
        if len(some) >= FEWEST_PAIRS
    ]  # fmt: skip
    columns = [Column(n, n, align="left" if i < LEFT else "right") for i, n in enumerate(NAMES)]
    title = "How long a prompt of 921 tokens holds decodes up, median, ms"
    return Table("prompts", title, tuple(columns), (tuple(tuple(map(text_cell, r)) for r in body),))


def _median_ms(seconds: Sequence[float]) -> str:
    return f"{1e3 * float(np.median(seconds)):.0f}"


def section(rows: Sequence[Row], profile: Profile) -> str:
    """Return the section of the page."""
    intro = (
        "Rows that differ only in the length of their answers say how long a prompt holds up the "
        "decodes of others: with shorter answers, more prompts come between the same steps. "
        "`benchmarks/accuracy_prompts.py` says how. No fit looks at these differences."
    )
    made = markdown(table(pairs(group(rows)[0], profile)))
    return f"## Prompts between decodes\n\n{intro}\n\n{made}"


def main() -> None:
    from accuracy import calibration_rows

    print(section(calibration_rows(), bundled_profile()))


if __name__ == "__main__":
    main()
