"""`calibrate`: fit your own profile to measured rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath
from shardwise.reports.documents import as_json

if TYPE_CHECKING:
    from shardwise.perfmodel.batches import GpuOf
    from shardwise.perfmodel.build import Personal
    from shardwise.perfmodel.profiles import Profile
    from shardwise.perfmodel.rows import Problem, Row
    from shardwise.reports.table import Table

#: ratio of a measured column to its prediction; a wrong unit is a factor of 1,000
MOST_APART: Final = 200.0


class Calibration(Result):
    """A profile from your rows, with its cross-validated errors before and after."""

    kind = "calibrate"

    def __init__(
        self,
        made: Personal,
        rows: Sequence[Row],
        problems: Sequence[Problem],
        path: Path | None,
        files: Sequence[Path] = (),
    ) -> None:
        self.made = made
        self.problems = tuple(problems)  #: rows that were not used, and why
        self.path = path  #: where the profile was saved; None: nowhere
        self._rows = rows
        self._files = tuple(files)

    @property
    def profile(self) -> Profile:
        """The new profile."""
        return self.made.profile

    def summary(self) -> str:
        """Report the number of rows, and the share of their correction that is applied."""
        shares, of = self.made.shares, "of the correction to what a step takes"
        kept = f"{shares.steps:.0%} {of} and {shares.outside:.0%} of that to the time outside"
        said = f"{self.made.rows} rows; mean error, before and after (cross-validated)."
        if self.made.is_supported:
            return f"{said} Applied: {kept} steps, as much as held-out rows support."
        return f"{said} Applied: {kept} steps, by --force; held-out rows support none."

    def tables(self) -> list[Table]:
        """Mean errors before and after, by metric."""
        from shardwise.reports.accuracy_tables import calibration_table

        return [calibration_table(self.made.before_pct, self.made.after_pct)]

    def export(self, path: AnyPath) -> None:
        """Write the profile with its rows, GPUs and errors to one file to share.

        Raises:
            InputError: The file cannot be written.
        """
        from shardwise.perfmodel.sharing import save_shared, shared
        from shardwise.perfmodel.subject import gpus_of

        save_shared(Path(path), shared(self.made, self._rows, gpus_of(self._files)))

    def _answer(self) -> dict[str, Any]:
        return {
            "profile": self.profile.name,
            "path": None if self.path is None else str(self.path),
            "rows": self.made.rows,
            "before_pct": self.made.before_pct,
            "after_pct": self.made.after_pct,
            "kept": {"steps": self.made.shares.steps, "outside": self.made.shares.outside},
        }


def calibrate(
    rows: AnyPath,
    *,
    name: str,
    profile: str = "reference",
    save: bool = True,
    force: bool = False,
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Calibration:
    """Fit the coefficients of your own GPU and engine to the measured rows of a CSV file.

    Args:
        rows: The file; the reference of file formats lists its columns.
        name: Name of the new profile.
        profile: Profile to start from.
        save: Whether to save the profile under its name, for use with `profile=name`.
        force: Whether to save the whole correction even if held-out rows do not support it.
        catalogue_files: TOML files with your own GPUs.
        node_file: Node file that `shardwise doctor --save` wrote. What its links explain is not
            corrected, so predictions with this profile need the same `node_file`.
        progress: Called with the current item, the number of finished items, and the total.

    Raises:
        InputError: SciPy is not installed, the file cannot be read, a unit is wrong, or no
            part of the correction is supported and `force` is not given.
    """
    from shardwise.api.accuracy import measured_rows
    from shardwise.perfmodel.build import build_personal
    from shardwise.perfmodel.profiles import check_name, load_profile, save_profile
    from shardwise.perfmodel.subject import gpus_of

    require_scipy()
    rows = Path(rows)
    called, start = check_name(name), load_profile(profile)
    files = all_files(catalogue_files, node_file)
    gpu_of = gpus_of(files)
    good, problems = measured_rows(rows, gpu_of)
    check_units(rows, start, gpu_of)
    provenance = f"{rows.name} on top of {start.name}"
    made = build_personal(good, start, called, provenance, progress, force, gpu_of)
    if not made.is_supported and not force:
        raise InputError(
            f"{rows.name}: no correction of {start.name} improves the prediction of held-out rows "
            f"by more "
            f"than chance ({_mean(made.before_pct):.1f} % mean error without one)",
            remedy="add rows at other TP sizes and batches, or save it anyway with --force",
            field="rows",
        )
    path = save_profile(made.profile) if save else None
    return Calibration(made, good, problems, path, files)


class FittedProfile(Result):
    """A refitted profile, with its errors on the rows of the fit and on held-out rows."""

    kind = "calibrate"

    def __init__(self, profile: Profile, problems: Sequence[Problem], lines: int) -> None:
        self.profile = profile
        self.problems = tuple(problems)  #: rows that were not used, and why
        self.lines = lines  #: all-reduce lines fitted
        self.path: Path | None = None

    def summary(self) -> str:
        """Report the number of known errors and fitted all-reduce lines."""
        return f"{len(self.profile.errors)} errors, {self.lines} all-reduce lines"

    def tables(self) -> list[Table]:
        """Return errors on rows of the fit and on held-out rows."""
        from shardwise.reports.accuracy_tables import held_out_table

        return [held_out_table(self.profile.errors)]

    def save(self, path: AnyPath) -> None:
        """Write the profile to a file.

        Raises:
            InputError: The file cannot be written.
        """
        from shardwise.reports.files import write_bytes

        text = as_json(self.profile, indent=1)
        self.path = write_bytes(Path(path), text.encode() + b"\n")

    def _answer(self) -> dict[str, Any]:
        path = None if self.path is None else str(self.path)
        return {"path": path, "errors": self.profile.errors, "folds": self.profile.folds}


def fit_profile(
    rows: Sequence[AnyPath],
    *,
    collectives: AnyPath,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> FittedProfile:
    """Fit the whole hierarchy of coefficients. The bundled profile is made this way.

    Args:
        rows: CSV files of measured rows; those marked `calibrate` are used.
        collectives: CSV file of all-reduce latencies.
        progress: Called with the current item, the number of finished items, and the total.

    Raises:
        InputError: SciPy is not installed, or a file cannot be used.
    """
    from shardwise.api.accuracy import measured_rows
    from shardwise.perfmodel.batches import usual_gpu
    from shardwise.perfmodel.build import build_reference
    from shardwise.perfmodel.fit_collectives import fit_lines, line_of

    require_scipy()
    lines = [line_of(fitted) for fitted in fit_lines(Path(collectives))]
    files = [Path(path) for path in rows]
    named = " and ".join(path.name for path in files)
    provenance = f"rows marked 'calibrate' of {named} over kernel tables (docs/kernels.md)"
    read = [measured_rows(path, usual_gpu) for path in files]
    good = [row for found, _ in read for row in found]
    made = build_reference(good, lines, provenance, progress)
    return FittedProfile(made, [problem for _, some in read for problem in some], len(lines))


def require_scipy() -> None:
    """Raise InputError if SciPy is not installed."""
    from importlib.util import find_spec

    if find_spec("scipy") is None:
        raise InputError("calibrate needs SciPy", remedy="run: pip install 'shardwise[calibrate]'")


def check_units(path: Path, base: Profile, gpu_of: GpuOf) -> None:
    """Raise InputError if a column is a thousand times the prediction of `base`.

    Its unit is then probably wrong.
    """
    from shardwise.perfmodel.predicting import COLUMNS, predict_table
    from shardwise.perfmodel.rows import read_table

    table, _ = predict_table(read_table(path)[1], base, gpu_of)
    for predicted in COLUMNS:
        column = predicted.removeprefix("pred_")
        ratios = [float(c[column]) / float(c[predicted]) for c in table if _both(c, column)]
        middle = median(ratios) if ratios else 1.0
        if not 1.0 / MOST_APART < middle < MOST_APART:
            unit = {"ms": "milliseconds", "s": "seconds"}.get(column.rpartition("_")[2], "")
            raise InputError(
                f"{column} is {middle:,.4g} times the prediction (median of {len(ratios)} rows)",
                f"needed: {'tokens/s' if 'tok' in column else unit}",
                "correct the column's unit",
                field=column,
            )


def _mean(errors_pct: Mapping[str, float]) -> float:
    return sum(errors_pct.values()) / max(len(errors_pct), 1)


def _both(cells: Mapping[str, str], column: str) -> bool:
    return bool((cells.get(column) or "").strip() and cells[f"pred_{column}"])
