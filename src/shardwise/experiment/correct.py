"""Correct predictions with some of the measured cells, and evaluate them on the others."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.evidence.export import row_of
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence
from shardwise.experiment.design import Cell
from shardwise.experiment.pace import paces_of
from shardwise.experiment.run import Ran, Wanted, predicted
from shardwise.experiment.shrink import Trust, shrunk, trust
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.build import FOLDS, MIN_ROWS, adapted, build_personal
from shardwise.perfmodel.hierarchy import encode
from shardwise.perfmodel.profiles import Profile
from shardwise.perfmodel.rows import Row, parse_rows

JUDGED: Final = tuple(
    m.name for m in (metrics.E2E, metrics.TPOT, metrics.TTFT, metrics.OUTPUT_THROUGHPUT)
)
CURVE_ROWS: Final = (0, 1, 2, 3, 5, 8, 13, 21)
DRAWS: Final = 3


class Compared(msgspec.Struct, frozen=True):
    """One measured cell and its predictions.

    `before` was made before the run, `after` with the calibration; both are None if the cell only
    checks that a split works.
    """

    key: str
    cell: Cell
    measured: Evidence
    usable: bool  #: the load client kept up
    judged: bool  #: not calibrated on
    made: str = ""  #: when `before` was
    before: Evidence | None = None
    after: Evidence | None = None
    paces: tuple[float, ...] = ()  #: seconds of fixed work before and after each run


class Score(msgspec.Struct, frozen=True):
    """Errors of one metric on the held-out cells, before and after calibration."""

    metric: str
    n: int
    before_pct: float
    after_pct: float
    before_inside: int  #: measured values in the 80 % interval
    after_inside: int
    share: float  #: of the correction, supported by held-out cells


class CurvePoint(msgspec.Struct, frozen=True):
    """Mean error on the held-out cells by the number of calibration cells: median and range of
    draws."""

    metric: str
    cells: int
    draws: int
    median_pct: float
    lo_pct: float
    hi_pct: float


class Corrected(msgspec.Struct, frozen=True):
    """Effect of the measurements on the predictions."""

    compared: tuple[Compared, ...]
    scores: tuple[Score, ...]
    curve: tuple[CurvePoint, ...]
    profile: Profile | None  #: from every usable cell, to be used from now on


def is_judged(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Return whether a cell is held out: a checkerboard over splits, modes and batches, fixed
    before the run."""
    ways = list(dict.fromkeys(c.split for c in cells))
    batches = sorted({c.workload.concurrency for c in cells})
    at = ways.index(cell.split) + batches.index(cell.workload.concurrency)
    return (at + (cell.workload.mode == "static_batch")) % 2 == 1


def correct(wanted: Wanted, ran: Ran, name: str) -> Corrected:
    """Calibrate on half of the cells, evaluate on the other half, then fit to all of them.

    The correction of each metric is scaled by what the first half supports. `name` is the new
    profile's.
    """
    every = wanted.cells()
    compared = [_compared(key, every, ran) for key in ran.measured]
    fit_for = [c for c in compared if c.usable and c.before]
    own = [c for c in fit_for if not c.judged]
    judged = [c for c in fit_for if c.judged]
    if len(own) < MIN_ROWS or not judged:
        return Corrected(tuple(compared), (), (), None)
    rows = _rows(ran.measured)
    trusts = _trusts(wanted, own, rows)
    half = _quick([rows[c.key] for c in own], wanted.profile)
    compared = [_with_after(c, wanted, half, trusts) for c in compared]
    everything = build_personal(
        [rows[c.key] for c in fit_for],
        wanted.profile,
        name,
        f"{len(fit_for)} cells measured by study --measure",
        lambda *_: None,
    )
    return Corrected(
        tuple(compared),
        _scores([c for c in compared if c.judged and c.after], trusts),
        tuple(_curve(wanted, own, judged, rows, trusts)),
        everything.profile,
    )


def _with_after(
    c: Compared, wanted: Wanted, half: Profile, trusts: Mapping[str, Trust]
) -> Compared:
    """Return `c` with the corrected prediction, if it can have one."""
    if not (c.usable and c.before):
        return c
    return replace(c, after=shrunk(c.before, predicted(wanted, c.cell, half), trusts))


def _trusts(wanted: Wanted, own: Sequence[Compared], rows: Mapping[str, Row]) -> dict[str, Trust]:
    """Return how much of the correction `own` supports, by leave-one-out predictions."""
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    folds = min(FOLDS, len(own))
    for k in range(folds):
        profile = _quick([rows[c.key] for i, c in enumerate(own) if i % folds != k], wanted.profile)
        for c in own[k::folds]:
            made = predicted(wanted, c.cell, profile)
            for metric in c.measured.metrics:
                if c.before and metric in made.metrics:
                    before.setdefault(metric, []).append(_log_error(c.before, c, metric))
                    after.setdefault(metric, []).append(_log_error(made, c, metric))
    return {metric: trust(before[metric], after[metric]) for metric in before}


def _log_error(made: Evidence, c: Compared, metric: str) -> float:
    return math.log(made.metrics[metric].value / c.measured.metrics[metric].value)


def _compared(key: str, every: Mapping[str, Cell], ran: Ran) -> Compared:
    made = ran.forecasts.get(key)
    found = ran.measured[key]
    return Compared(
        key,
        every[key],
        found.evidence,
        found.usable,
        is_judged(every[key], list(every.values())),
        made.made if made else "",
        made.evidence if made else None,
        paces=paces_of(found.conditions),
    )


def _rows(measured: Mapping[str, Measured]) -> dict[str, Row]:
    """Return each cell as a row for calibration."""
    table = [{k: str(v) for k, v in row_of(cell).items()} for cell in measured.values()]
    rows, _ = parse_rows(table)
    keys = list(measured)
    return {keys[row.number - 1]: row for row in rows}


def _quick(rows: Sequence[Row], base: Profile) -> Profile:
    """Adapt `base` to a few rows; its intervals are unchanged."""
    batches, _ = group(rows)
    return msgspec.structs.replace(base, offsets=encode(adapted(batches, base)))


def _scores(judged: Sequence[Compared], trusts: Mapping[str, Trust]) -> tuple[Score, ...]:
    found = []
    for metric in JUDGED:
        some = [c for c in judged if metric in c.measured.metrics and c.before and c.after]
        if not some:
            continue
        before = [_error_pct(c.before, c.measured, metric) for c in some if c.before]
        after = [_error_pct(c.after, c.measured, metric) for c in some if c.after]
        found.append(
            Score(
                metric,
                len(some),
                fmean(map(abs, before)),
                fmean(map(abs, after)),
                sum(_inside(c.before, c.measured, metric) for c in some if c.before),
                sum(_inside(c.after, c.measured, metric) for c in some if c.after),
                trusts[metric].share if metric in trusts else 0.0,
            )
        )
    return tuple(found)


def _error_pct(made: Evidence, found: Evidence, metric: str) -> float:
    return metrics.percent_change(found.metrics[metric].value, made.metrics[metric].value)


def _inside(made: Evidence, found: Evidence, metric: str) -> bool:
    bounds = made.metrics[metric]
    return bounds.lo <= found.metrics[metric].value <= bounds.hi


def _curve(
    wanted: Wanted,
    own: Sequence[Compared],
    judged: Sequence[Compared],
    rows: Mapping[str, Row],
    trusts: Mapping[str, Trust],
) -> list[CurvePoint]:
    """Return the error on the held-out cells by the number of calibration cells; each correction
    is scaled by the share that all calibration cells support."""
    sizes = [n for n in CURVE_ROWS if n < len(own)] + [len(own)]
    found = []
    for size in sizes:
        draws = 1 if size in (0, len(own)) else DRAWS
        errors: dict[str, list[float]] = {}
        for draw in range(draws):
            chosen = random.Random(f"{size} {draw}").sample(list(own), size)
            used = [rows[c.key] for c in chosen]
            profile = _quick(used, wanted.profile) if used else wanted.profile
            for metric, error in _mean_errors(wanted, judged, profile, trusts).items():
                errors.setdefault(metric, []).append(error)
        found += [
            CurvePoint(metric, size, draws, median(e), min(e), max(e))
            for metric, e in errors.items()
        ]
    return found


def _mean_errors(
    wanted: Wanted, judged: Sequence[Compared], profile: Profile, trusts: Mapping[str, Trust]
) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for c in judged:
        made = _with_after(c, wanted, profile, trusts).after
        if made is None:
            continue
        for metric in JUDGED:
            if metric in c.measured.metrics:
                errors.setdefault(metric, []).append(abs(_error_pct(made, c.measured, metric)))
    return {metric: fmean(values) for metric, values in errors.items()}
