"""`compare`: test whether one run is slower than another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwise.analysis.comparison import Change, Comparison, compare_runs, slower_by
from shardwise.api.result import Result
from shardwise.files import AnyPath
from shardwise.reports.runs import Run, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardwise.reports.table import Table


class RunComparison(Result):
    """Run B compared with run A, overall and for each common cell."""

    kind = "compare"

    def __init__(self, a: Run, b: Run) -> None:
        self.a = a
        self.b = b
        self.comparison: Comparison = compare_runs(a.evidence, b.evidence)

    def slower_by(self, percent: float) -> Sequence[Change]:
        """Return the changes that are slower by `percent` or more, beyond their interval."""
        return slower_by(self.comparison, percent)

    def tables(self) -> list[Table]:
        """Return a table over all cells, then one per metric."""
        from shardwise.reports.comparison_tables import cell_tables, overall_table

        return [overall_table(self.comparison, self.a, self.b), *cell_tables(self.comparison)]

    def _answer(self) -> dict[str, Any]:
        from shardwise.reports.comparison_tables import comparison_document

        return comparison_document(self.comparison, self.a, self.b)


def compare(
    run_a: AnyPath, run_b: AnyPath, *, study_a: str = "", study_b: str = ""
) -> RunComparison:
    """Compare run B with the earlier run A.

    Args:
        run_a: A store of `shardwise bench`, the folder of a study, or a JSON file of evidence.
        run_b: The later run, in any of these forms.
        study_a: Study of the store `run_a`; "" takes all its cells.
        study_b: Study of the store `run_b`; "" takes all its cells.

    Raises:
        InputError: A run cannot be read, has no usable cells, or the runs have no common cells.
    """
    return RunComparison(read_run(Path(run_a), study_a), read_run(Path(run_b), study_b))
