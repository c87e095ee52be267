"""Measured cells: the result of `bench_run`, `bench_sweep` and `load_bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from shardwise import metrics
from shardwise.api.result import Result
from shardwise.errors import InputError, UnknownNameError
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.analysis.transitions import Step
    from shardwise.evidence.measured import Measured
    from shardwise.evidence.record import Evidence
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table

_CHANGES = (metrics.E2E, metrics.TTFT, metrics.TPOT, metrics.OUTPUT_THROUGHPUT)


class Measurements(Result):
    """Measured cells, each with its conditions, and what each TP step changes."""

    kind = "bench"

    def __init__(
        self,
        cells: Sequence[Measured],
        measured_now: Sequence[Measured] = (),
        unkept: Sequence[Measured] = (),
    ) -> None:
        self.cells = tuple(cells)
        self.measured_now = tuple(measured_now)  #: cells that this call measured
        self.unkept = tuple(unkept)  #: cells that the store did not accept; `say` named another

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The cells in which requests completed and the client kept up."""
        return tuple(cell.evidence for cell in self.cells if cell.usable)

    @property
    def is_interrupted(self) -> bool:
        """Whether a measurement was interrupted; its last cell may have fewer runs."""
        return any(cell.conditions.get("interrupted") for cell in self.measured_now)

    def _steps(self) -> list[Step]:
        from shardwise.analysis.grid import index
        from shardwise.analysis.transitions import transitions

        closed = [e for e in self.evidence if e.workload.request_rate is None]
        if len({e.deployment.tp_size for e in closed}) < 2:
            return []
        return list(transitions(index(closed), [metric.name for metric in _CHANGES]))

    def tables(self) -> list[Table]:
        """Return a row per cell, then, for several TP sizes, the change of each step."""
        from shardwise.reports.measured_tables import measured_table
        from shardwise.reports.tables import transitions_table

        steps = self._steps()
        return [measured_table(self.cells), *([transitions_table(steps)] if steps else [])]

    def charts(self) -> dict[str, Figure]:
        """Return `tp_steps`, the change of each step; nothing for one TP size."""
        from shardwise.reports.figure_style import Figure
        from shardwise.reports.figures import tp_changes

        steps = self._steps()
        return {"tp_steps": Figure(tp_changes(steps))} if steps else {}

    def export(self, path: AnyPath) -> int:
        """Write the cells to a .csv, .json or .parquet file; return how many were written.

        CSV and Parquet are rows for `validate` and `calibrate`, without cells that cannot be
        compared with predictions.

        Raises:
            InputError: The file's name has another ending, or it cannot be written.
        """
        from shardwise.evidence.export import FORMATS, write

        path = Path(path)
        if path.suffix not in FORMATS:
            raise InputError(f"{path}", f"allowed: a name ending in {', '.join(FORMATS)}")
        return write(self.cells, path)

    def _answer(self) -> dict[str, Any]:
        # raw requests stay in the store: they would be a hundred times as large as the rest
        return {"cells": [replace(cell, repeats=()) for cell in self.cells]}


def load_bench(store: AnyPath, *, study: str = "") -> Measurements:
    """Load the measured cells of a store.

    Args:
        store: File that `bench_run`, `bench_sweep` or `shardwise bench` wrote.
        study: Name of one study of the store; "" takes all.

    Raises:
        InputError: The file is no store, or has no cells.
        UnknownNameError: It has no study of that name.
    """
    from shardwise.evidence.store import open_store

    with open_store(Path(store), create=False) as opened:
        if study and study not in opened.studies():
            raise UnknownNameError("study", study, opened.studies())
        found = opened.cells(study or None)
    if not found:
        raise InputError(f"{store} contains no cells")
    return Measurements(found)
