"""Predictions of an experiment's cells, made before the run and stored with their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval
from shardwise.experiment.design import Cell
from shardwise.files import write_whole
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.profiles import Profile, calibrated

FILE: Final = "predictions.json"
_OF_ALL: Final = ("output_tok_s", "total_tok_s")  #: metrics that are summed over replicas


class Forecast(msgspec.Struct, frozen=True):
    """A prediction and when it was made."""

    made: str  #: ISO time, UTC
    evidence: Evidence


def forecast(cell: Cell, deployment: Deployment, profile: Profile) -> Evidence:
    """Predict `deployment` under the cell's load with `profile`.

    Several replicas share the load equally; their throughput is the sum.
    """
    gpu = default_catalogue().gpu(deployment.gpu)
    known = calibrated(profile, gpu, deployment.engine, default_catalogue().by_id)
    stored = stored_in(load(deployment.model), deployment.dtypes.weight)
    subject = Subject(stored, gpu, deployment.engine, deployment.dtypes.kv, known)
    one = predict(subject, [deployment.with_layout(replicas=1)], [cell.per_replica])[0]
    busy = min(deployment.replicas, cell.workload.concurrency)
    metrics = {m: _times(v, busy if m in _OF_ALL else 1) for m, v in one.metrics.items()}
    return replace(one, deployment=deployment, workload=cell.workload, metrics=metrics)


def _times(interval: Interval, factor: int) -> Interval:
    return Interval(interval.value * factor, interval.lo * factor, interval.hi * factor, interval.n)


def kept_forecasts(
    folder: Path, wanted: Mapping[str, Cell], make: Callable[[Cell], Evidence]
) -> dict[str, Forecast]:
    """Return the forecasts of `folder` by cell key; missing ones are made now.

    Existing forecasts are kept, because they were made before their cells ran.
    """
    path = folder / FILE
    known = _read(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = {key: Forecast(now, make(cell)) for key, cell in wanted.items() if key not in known}
    if new:
        known |= new
        write_whole(path, msgspec.json.format(msgspec.json.encode(known), indent=1))
    return {key: known[key] for key in wanted}


def _read(path: Path) -> dict[str, Forecast]:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Forecast])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is damaged: {error}", remedy="choose another folder") from None
