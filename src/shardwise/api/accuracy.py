"""`validate`: compare predictions with measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.perfmodel.validation import (
    GROUPINGS,
    Choice,
    Point,
    Score,
    choices,
    kv_limited_recall,
    points_of,
    scores,
)

if TYPE_CHECKING:
    from shardwise.perfmodel.batches import GpuOf
    from shardwise.perfmodel.rows import Problem, Row
    from shardwise.reports.figure_style import Figure
    from shardwise.reports.table import Table


class Validation(Result):
    """Errors of predictions against measured rows, by group."""

    kind = "validate"

    def __init__(
        self, profile: str, points: Sequence[Point], rows: int, problems: Sequence[Problem]
    ) -> None:
        self.profile = profile
        self.points = tuple(points)  #: every measured value beside its prediction
        self.rows = rows  #: rows that hold a measurement and could be predicted
        self.problems = tuple(problems)  #: rows that were not used, and why
        self.scores: Mapping[str, Sequence[Score]] = {
            name: scores(points, key) for name, key in GROUPINGS.items()
        }
        self.choices: Sequence[Choice] = choices(list(points))
        self.kv_limited_found = 0
        self.kv_limited_marked = 0

    def tables(self) -> list[Table]:
        """Return errors by each grouping, then whether the best layout is found."""
        from shardwise.reports.accuracy_tables import choice_table, score_table

        found = [score_table(some, name) for name, some in self.scores.items()]
        return found + ([choice_table(self.choices)] if self.choices else [])

    def charts(self) -> dict[str, Figure]:
        """Return `predicted_measured`: each predicted value against its measurement."""
        from shardwise.reports.figure_style import Figure
        from shardwise.reports.figures import predicted_measured

        return {"predicted_measured": Figure(predicted_measured(self.points))}

    def _answer(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "rows": self.rows,
            "scores": self.scores,
            "choices": self.choices,
            "kv_limited": {"found": self.kv_limited_found, "marked": self.kv_limited_marked},
        }


def validate(
    rows: AnyPath,
    *,
    profile: str = "reference",
    use: str = "",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
) -> Validation:
    """Compare predictions with the measured rows of a CSV file.

    Args:
        rows: The file; the reference of file formats lists its columns.
        profile: Name of a profile, or a shared profile file.
        use: Only rows whose `use` column says this; "" takes all.
        catalogue_files: TOML files with your own GPUs.
        node_file: Node file that `shardwise doctor --save` wrote: rows of its GPU are on its links.

    Raises:
        InputError: The file cannot be read, or no measured row can be predicted.
    """
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.subject import gpus_of

    loaded = load_profile(profile)
    gpu_of = gpus_of(all_files(catalogue_files, node_file))
    good, problems = measured_rows(Path(rows), gpu_of)
    wanted = [row for row in good if not use or row.use == use]
    if not wanted:
        raise InputError(f"no measured row of {rows} can be predicted")
    found = Validation(loaded.name, points_of(wanted, loaded, gpu_of), len(wanted), problems)
    found.kv_limited_found, found.kv_limited_marked = kv_limited_recall(wanted, loaded, gpu_of)
    return found


def measured_rows(path: Path, gpu_of: GpuOf) -> tuple[list[Row], list[Problem]]:
    """Return rows with a measurement that can be predicted, and the others with the reason."""
    from shardwise.perfmodel.predicting import usable_rows
    from shardwise.perfmodel.rows import read_table

    return usable_rows(read_table(path)[1], gpu_of)
