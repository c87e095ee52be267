"""Is the best layout found among several on as many GPUs? A section of docs/accuracy.md.

    python benchmarks/accuracy_layouts.py    print the section, each model family left out

Cells are rows of one model, GPU, engine, dtype and load, measured in several layouts (TP, EP,
attention DP) on the same number of GPUs. Needs the reference rows and SciPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.crossval import Miss
from shardwise.reports.table import Column, Table, markdown, text_cell

Cell = tuple[object, ...]
#: Metrics that a layout is chosen by, and whether less is better.
CHOSEN_BY: Final[Mapping[str, tuple[str, bool]]] = {
    "e2e_latency_s": ("lowest E2E latency", True),
    "tpot_s": ("lowest TPOT", True),
}


@dataclass(frozen=True)
class Chosen:
    """The layout that predictions choose for one load, and what it measured beside the best.

    `worse` is how much worse the chosen layout measured than the best one, as a share; `noise` is
    the largest spread of one layout measured twice in this cell, where any was.
    """

    model: str
    where: str
    layouts: tuple[str, ...]
    agree: bool
    worse: float
    spread: float  #: worst measured layout over the best one, less 1


def cells(misses: Iterable[Miss], metric: str) -> dict[Cell, dict[Layout, list[Miss]]]:
    """Errors by cell and layout, of cells with several layouts on as many GPUs."""
    found: dict[Cell, dict[Layout, list[Miss]]] = {}
    for miss in misses:
        r = miss.row
        if miss.metric != metric or r.mode != "closed_loop":
            continue
        cell = (r.model, r.gpu, r.engine, r.weight_dtype, r.layout.replica_gpus)
        cell = (*cell, r.concurrency, r.isl, r.osl)
        found.setdefault(cell, {}).setdefault(r.layout, []).append(miss)
    return {cell: by_layout for cell, by_layout in found.items() if len(by_layout) > 1}


def choices(misses: Sequence[Miss], metric: str, less: bool) -> list[Chosen]:
    """What is chosen in each cell. A layout measured several times counts with its mean, in logs.

    The predicted value of a row is its measured one times exp(error).
    """
    sign = 1.0 if less else -1.0
    found = []
    for cell, by_layout in cells(misses, metric).items():
        measured = {x: _log_measured(some, metric) for x, some in by_layout.items()}
        predicted = {
            x: measured[x] + float(np.mean([m.error for m in some]))
            for x, some in by_layout.items()
        }
        chosen = min(predicted, key=lambda x: sign * predicted[x])
        ordered = sorted(sign * value for value in measured.values())
        worse = float(np.expm1(sign * measured[chosen] - ordered[0]))
        found.append(
            Chosen(
                str(cell[0]),
                f"{cell[1]} {cell[2]}",
                tuple(sorted(x.name for x in by_layout)),
                worse == 0.0,
                worse,
                float(np.expm1(ordered[-1] - ordered[0])),
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
    """Best layout found and mean regret, by model and GPU, and over all."""
    body = []
    for metric, (question, less) in CHOSEN_BY.items():
        every = choices(misses, metric, less)
        groups: dict[tuple[str, str, tuple[str, ...]], list[Chosen]] = {}
        for one in every:
            groups.setdefault((one.model, one.where, one.layouts), []).append(one)
        for (model, where, layouts), some in sorted(groups.items()):
            body.append(_row(question, model, where, ", ".join(layouts), some))
        body.append(_row(question, "all", "", "", every))
    titles = ("best by", "model", "GPU and engine", "layouts", "loads", "found, %", "regret, %")
    titles = (*titles, "worst over best, %")
    columns = tuple(Column(t, t, align="left" if i < 4 else "right") for i, t in enumerate(titles))
    return Table(
        "layouts",
        "TP, EP and attention DP on as many GPUs at the same load",
        columns,
        (tuple(body),),
        notes=(
            "regret: how much worse the layout chosen by prediction measured than the best one",
            "worst over best: what a choice of layout can cost there, on average",
        ),
    )


def _row(question: str, model: str, where: str, layouts: str, some: Sequence[Chosen]) -> tuple:  # type: ignore[type-arg]
    def mean(values: Iterable[float]) -> str:
        return f"{100 * float(np.mean(list(values))):.1f}"

    words = (question, model, where, layouts, str(len(some)), mean(c.agree for c in some))
    words = (*words, mean(c.worse for c in some), mean(c.spread for c in some))
    return tuple(text_cell(w) for w in words)


def section(misses: Sequence[Miss]) -> str:
    """The section of the page, from errors with each model family left out."""
    family = [m for m in misses if m.fold == "family"]
    title = "## Is the best layout found among several on as many GPUs?"
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
