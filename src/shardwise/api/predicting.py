"""`predict`: predict deployments under workloads; `predict_rows`: the same for CSV rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from shardwise.api.hardware import all_files
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence
from shardwise.files import AnyPath
from shardwise.layout.deployment import Deployment, Dtypes
from shardwise.workload.workload import Workload

if TYPE_CHECKING:
    from shardwise.perfmodel.estimate import Subject
    from shardwise.perfmodel.rows import Problem
    from shardwise.reports.table import Table


class Predictions(Result):
    """A prediction for each pair of a deployment and a workload, in order."""

    kind = "predictions"

    def __init__(self, evidence: Sequence[Evidence]) -> None:
        self.evidence = tuple(evidence)

    def tables(self) -> list[Table]:
        """Return one row per prediction."""
        from shardwise.reports.tables import evidence_table

        return [evidence_table(self.evidence)]

    def _answer(self) -> dict[str, Any]:
        return {"evidence": self.evidence}


class PredictedRows(Result):
    """A table of rows with predicted columns, and the reasons for skipped rows."""

    kind = "predict"

    def __init__(
        self, header: Sequence[str], rows: Sequence[dict[str, str]], problems: Sequence[Problem]
    ) -> None:
        self.header = tuple(header)  #: columns of the result, the predicted ones last
        self.rows = tuple(rows)  #: cells as text, by column
        self.problems = tuple(problems)

    @property
    def predicted(self) -> int:
        """Number of predicted rows."""
        return len(self.rows) - len({p.number for p in self.problems})

    def tables(self) -> list[Table]:
        """Return the question and the predicted columns of each row."""
        from shardwise.reports.tables import rows_table

        return [rows_table(self.header, self.rows)]

    def _answer(self) -> dict[str, Any]:
        return {"predicted": self.predicted, "problems": self.problems, "rows": self.rows}


def predict(
    deployments: Deployment | Sequence[Deployment],
    workloads: Workload | Sequence[Workload],
    *,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
) -> Predictions:
    """Predict one replica of each deployment under its workload.

    Args:
        deployments: One, or one for each workload. `layout.replicas` does not change the answer.
        workloads: One, or one for each deployment; `concurrency` is that of one replica.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs.
        node_file: Node file that `shardwise doctor --save` wrote; its links are those of its GPU.

    Raises:
        UnknownNameError: A model, GPU or engine is unknown.
        InputError: A layout, dtype or length is invalid.
        DoesNotFitError: A deployment does not fit in memory.
    """
    pairs = _pairs(deployments, workloads)
    files = all_files(catalogue_files, node_file)
    subjects: dict[tuple[Any, ...], Subject] = {}
    found = []
    for deployment, workload in pairs:
        d = deployment
        key = (d.model, d.gpu, d.engine, d.dtypes, d.engine_version, d.speculation)
        if key not in subjects:
            subjects[key] = _subject(d, profile, files)
        found.append(_predicted(subjects[key], d, workload))
    return Predictions(found)


def _pairs(
    deployments: Deployment | Sequence[Deployment], workloads: Workload | Sequence[Workload]
) -> list[tuple[Deployment, Workload]]:
    first = [deployments] if isinstance(deployments, Deployment) else list(deployments)
    second = [workloads] if isinstance(workloads, Workload) else list(workloads)
    if not first or not second or len({1, len(first), len(second)}) > 2:
        raise InputError(
            f"{len(first)} deployments and {len(second)} workloads",
            "allowed: the same number of both, or one of either",
        )
    count = max(len(first), len(second))
    return list(zip(first * (count // len(first)), second * (count // len(second)), strict=True))


def _subject(d: Deployment, profile: str, files: Sequence[Path]) -> Subject:
    from shardwise.perfmodel.subject import Asked, subject_of

    asked = Asked(
        d.model, d.gpu, d.engine, d.dtypes.weight, d.dtypes.kv, profile, tuple(files),
        d.engine_version, d.speculation,
    )  # fmt: skip
    return subject_of(asked)[0]


def _predicted(subject: Subject, deployment: Deployment, workload: Workload) -> Evidence:
    from shardwise.architecture.model import require_context
    from shardwise.engines.loading import require_able
    from shardwise.layout.rules import require_layout
    from shardwise.perfmodel.estimate import predict as estimate
    from shardwise.perfmodel.memory import require_fit

    dtypes = Dtypes(subject.weight_dtype, subject.setting.kv_dtype)
    asked = replace(deployment, model=subject.arch.id, dtypes=dtypes)
    require_context(subject.arch, int(workload.isl), int(workload.osl))
    require_layout(subject.arch, asked.layout, subject.platform.loader)
    require_able(asked, subject.gpu, subject.arch)
    require_fit(subject.arch, subject.gpu, asked, int(workload.isl + workload.osl))
    return estimate(subject, [asked], [workload])[0]


def predict_rows(
    rows: AnyPath,
    *,
    profile: str = "reference",
    catalogue_files: Sequence[AnyPath] = (),
    node_file: AnyPath | None = None,
) -> PredictedRows:
    """Predict each row of a CSV file with the columns of measured rows.

    Args:
        rows: The file; the reference of file formats lists its columns.
        profile: Name of a profile, or a shared profile file.
        catalogue_files: TOML files with your own GPUs.
        node_file: Node file that `shardwise doctor --save` wrote: rows of its GPU are on its links.

    Raises:
        InputError: The file cannot be read, or none of its rows can be predicted.
    """
    from shardwise.perfmodel.predicting import NEW_COLUMNS, predict_table
    from shardwise.perfmodel.profiles import load_profile
    from shardwise.perfmodel.rows import read_table
    from shardwise.perfmodel.subject import gpus_of

    files = all_files(catalogue_files, node_file)
    loaded = load_profile(profile)
    header, table = read_table(Path(rows))
    predicted, problems = predict_table(table, loaded, gpus_of(files))
    kept = [name for name in header if name not in NEW_COLUMNS]
    found = PredictedRows([*kept, *NEW_COLUMNS], predicted, problems)
    if not found.predicted:
        why = problems[0].reason if problems else "it has no rows"
        raise InputError(
            f"none of the {len(table)} rows of {rows} could be predicted", f"first reason: {why}"
        )
    return found
