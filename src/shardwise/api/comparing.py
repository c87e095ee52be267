"""`compare`: is one run slower than another, and how sure is that?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwise.analysis.comparison import Change, Comparison, compare_runs, slower_by
from shardwise.api.result import Result
from shardwise.reports.runs import Run, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardwise.reports.table import Table


class RunComparison(Result):
    """Run B against run A, overall and for each cell that both have."""

    kind = "compare"

    def __init__(self, a: Run, b: Run) -> None:
        self.a = a
        self.b = b
        self.comparison: Comparison = compare_runs(a.evidence, b.evidence)

    def slower_by(self, percent: float) -> Sequence[Change]:
        """What is slower by `percent` or more, with an interval that says so."""
        return slower_by(self.comparison, percent)

    def tables(self) -> list[Table]:
        """All cells together, then a table for each metric."""
        from shardwise.reports.comparison_tables import cell_tables, overall_table

        return [overall_table(self.comparison, self.a, self.b), *cell_tables(self.comparison)]

    def _answer(self) -> dict[str, Any]:
        from shardwise.reports.comparison_tables import comparison_document

        return comparison_document(self.comparison, self.a, self.b)


def compare(run_a: Path, run_b: Path, *, study_a: str = "", study_b: str = "") -> RunComparison:
    """Compare run B with the earlier run A.

    Args:
        run_a: A store of `shardwise bench`, the folder of a study, or a JSON file of evidence.
        run_b: The later run, in any of these forms.
        study_a: Study of the store `run_a`; "" takes all its cells.
        study_b: Study of the store `run_b`; "" takes all its cells.

    Raises:
        InputError: A run cannot be read or holds no usable cell, or none is in both.
    """
    return RunComparison(read_run(Path(run_a), study_a), read_run(Path(run_b), study_b))
