"""Is the best layout found among several on as many GPUs? A section of docs/accuracy.md.

    python benchmarks/accuracy_layouts.py    print the section, each model family left out

Cells are rows of one model, GPU, engine, dtype and load, measured in several layouts (TP, EP,
attention DP) on the same number of GPUs, with one engine version. Only where no version was
measured in several layouts, a cell compares rows of several versions. Needs the reference rows and
SciPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.crossval import Miss
from shardwise.reports.table import Column, Row, Table, markdown, text_cell

Cell = tuple[object, ...]
#: Version of a cell whose layouts were measured with several engine versions.
SEVERAL: Final = "several"
#: Measured values within this share of the best count as the best: where one layout was measured
#: several times, the runs differ by as much.
NOISE: Final = 0.02
QUESTIONS: Final = {"e2e_latency_s": "lowest E2E latency", "tpot_s": "lowest TPOT"}
#: `speculation` of rows that say, or let infer, that no tokens were drafted.
PLAIN: Final = ("", "unlikely")


class Chosen(msgspec.Struct, frozen=True):
    """The layout that predictions choose for one load, and what it measured beside the best."""

    model: str
    where: str
    layouts: tuple[str, ...]
    version: str  #: of the engine; `SEVERAL` if the layouts' differ
    plain: bool  #: whether all rows are known to have run without drafted tokens
    worse: float  #: the chosen layout's value over the best one's, less 1
    spread: float  #: the worst layout's value over the best one's, less 1


def cells(misses: Iterable[Miss], metric: str) -> dict[Cell, dict[Layout, list[Miss]]]:
    """Errors by cell and layout, of cells with several layouts on as many GPUs. A cell's last part
    is its engine version."""
    loads: dict[Cell, dict[str, list[Miss]]] = {}
    for miss in misses:
        r = miss.row
        if miss.metric != metric or r.mode != "closed_loop":
            continue
        gpus = r.layout.replica_gpus
        load: Cell = (r.model, r.gpu, r.engine, r.weight_dtype, gpus, r.concurrency, r.isl, r.osl)
        loads.setdefault(load, {}).setdefault(r.version, []).append(miss)
    found: dict[Cell, dict[Layout, list[Miss]]] = {}
    for load, versions in loads.items():
        within = {v: _by_layout(some) for v, some in versions.items() if v}
        within = {v: by_layout for v, by_layout in within.items() if len(by_layout) > 1}
        every = _by_layout([m for some in versions.values() for m in some])
        for version, by_layout in (within or {SEVERAL: every}).items():
            if len(by_layout) > 1:
                found[*load, version] = by_layout
    return found


def _by_layout(misses: Iterable[Miss]) -> dict[Layout, list[Miss]]:
    found: dict[Layout, list[Miss]] = {}
    for miss in misses:
        found.setdefault(miss.row.layout, []).append(miss)
    return found


def choices(misses: Sequence[Miss], metric: str) -> list[Chosen]:
    """What is chosen in each cell by a metric of which less is better. A layout measured several
    times counts with its mean, in logs; a row's prediction is its measured value x exp(error)."""
    found = []
    for cell, by_layout in cells(misses, metric).items():
        measured = {x: _log_measured(some, metric) for x, some in by_layout.items()}
        errors = {x: float(np.mean([m.error for m in some])) for x, some in by_layout.items()}
        chosen = min(measured, key=lambda x: measured[x] + errors[x])
        best, worst = min(measured.values()), max(measured.values())
        found.append(
            Chosen(
                str(cell[0]),
                f"{cell[1]} {cell[2]}",
                tuple(sorted(x.name for x in by_layout)),
                str(cell[-1]),
                all(m.row.speculation in PLAIN for some in by_layout.values() for m in some),
                float(np.expm1(measured[chosen] - best)),
                float(np.expm1(worst - best)),
            )
        )
    return found


def _log_measured(misses: Sequence[Miss], metric: str) -> float:
    values = []
    for m in misses:
        row = m.row
        if metric in row.observed:
            values.append(row.observed[metric])
        else:  # E2E latency follows from TTFT and TPOT by their definitions
            values.append(row.observed["ttft_s"] + row.observed["tpot_s"] * (row.osl - 1.0))
    return float(np.mean(np.log(values)))


def layout_table(misses: Sequence[Miss]) -> Table:
    """Best layout found and mean regret, by model and GPU, and over all loads."""
    body: list[Row] = []
    for metric, question in QUESTIONS.items():
        every = choices(misses, metric)
        for plain, which in ((True, "all, no speculation"), (False, "all, unknown")):
            some = [c for c in every if c.plain == plain]
            for key, group in _grouped(some).items():
                body.append(_row(question, *key, group))
            if some:
                body.append(_row(question, which, "", "", "", some))
        same = [c for c in every if c.plain and c.version != SEVERAL]
        body.append(_row(question, "all, no speculation, one version", "", "", "", same))
        body.append(_row(question, "all", "", "", "", every))
    left = ("best by", "model", "GPU and engine", "layouts", "engine version")
    right = ("loads", "found, %", "regret, %", "worst over best, %")
    columns = [Column(t, t, align="left") for t in left] + [Column(t, t) for t in right]
    return Table(
        "layouts",
        "TP, EP and attention DP on the same number of GPUs at the same load",
        tuple(columns),
        (tuple(body),),
        notes=(
            f"found: the layout chosen by prediction measured within {100 * NOISE:g} % of the best "
            "one, the repeatability of one layout",
            "regret: mean measured loss of the chosen layout against the best one",
            "worst over best: mean measured loss of the worst layout against the best one",
            "several: no engine version was measured in more than one of the layouts, so the "
            "measured difference is also that of the versions",
            "unknown: some of the rows may have used speculative decoding and others not, so the "
            "difference is not only due to the layout",
        ),
    )


def _grouped(some: Sequence[Chosen]) -> dict[tuple[str, str, str, str], list[Chosen]]:
    groups: dict[tuple[str, str, str, str], list[Chosen]] = {}
    for one in sorted(some, key=lambda c: (c.model, c.where, c.layouts, c.version)):
        key = (one.model, one.where, ", ".join(one.layouts), one.version)
        groups.setdefault(key, []).append(one)
    return groups


def _row(
    question: str, model: str, where: str, layouts: str, version: str, some: Sequence[Chosen]
) -> Row:
    found, regret, spread = (
        f"{100 * float(np.mean(values)):.1f}"
        for values in (
            [c.worse <= NOISE for c in some],
            [c.worse for c in some],
            [c.spread for c in some],
        )
    )
    words = (question, model, where, layouts, version, str(len(some)), found, regret, spread)
    return tuple(text_cell(w) for w in words)


def section(misses: Sequence[Miss]) -> str:
    """The section of the page, from errors with each model family left out."""
    family = [m for m in misses if m.fold == "family"]
    title = "## Choosing among layouts on the same number of GPUs"
    return f"{title}\n\n{markdown(layout_table(family))}"


def main() -> None:
    from accuracy import calibration_rows, left_out
    from shardwise.perfmodel.batches import group
    from shardwise.perfmodel.calibrate import problem_of
    from shardwise.perfmodel.profiles import bundled_profile

    problem = problem_of(group(calibration_rows())[0])
    print(section(left_out(problem, bundled_profile(), ("family",))))


if __name__ == "__main__":
    main()
