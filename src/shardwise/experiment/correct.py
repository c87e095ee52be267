"""Predictions corrected by a part of the measured cells, and judged on the rest."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Final

from shardwise import metrics
from shardwise.evidence.export import row_of
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence
from shardwise.experiment.design import Cell
from shardwise.experiment.pace import paces_of
from shardwise.experiment.run import Ran, Wanted, predicted
from shardwise.perfmodel.batches import group
from shardwise.perfmodel.build import MIN_ROWS, adapted, build_personal
from shardwise.perfmodel.hierarchy import encode
from shardwise.perfmodel.profiles import Profile
from shardwise.perfmodel.rows import Row, parse_rows

JUDGED: Final = tuple(
    m.name for m in (metrics.E2E, metrics.TPOT, metrics.TTFT, metrics.OUTPUT_THROUGHPUT)
)
CURVE_ROWS: Final = (0, 1, 2, 3, 5, 8, 13, 21)
DRAWS: Final = 3


@dataclass(frozen=True)
class Compared:
    """One measured cell beside what was predicted of it.

    `before` was made before the run, `after` with the calibration on the cells that are not
    judged; both None where the cell only shows that a split works.
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


@dataclass(frozen=True)
class Score:
    """Errors of one metric over the judged cells, before and after calibration."""

    metric: str
    n: int
    before_pct: float
    after_pct: float
    before_inside: int  #: measured values in the 80 % interval
    after_inside: int


@dataclass(frozen=True)
class CurvePoint:
    """Mean error on the judged cells after so many measured cells: median and range of draws."""

    metric: str
    cells: int
    draws: int
    median_pct: float
    lo_pct: float
    hi_pct: float


@dataclass(frozen=True)
class Corrected:
    """What the measurements did to the predictions."""

    compared: tuple[Compared, ...]
    scores: tuple[Score, ...]
    curve: tuple[CurvePoint, ...]
    profile: Profile | None  #: from every usable cell, to be used from now on


def is_judged(cell: Cell, cells: Sequence[Cell]) -> bool:
    """A chequerboard over splits, modes and batches: half of each, told before anything ran."""
    ways = list(dict.fromkeys(c.split for c in cells))
    batches = sorted({c.workload.concurrency for c in cells})
    at = ways.index(cell.split) + batches.index(cell.workload.concurrency)
    return (at + (cell.workload.mode == "static_batch")) % 2 == 1


def correct(wanted: Wanted, ran: Ran, name: str) -> Corrected:
    """Calibrate on half of what was measured, judge the other half, then learn from all of it.

    `name` is the new profile's.
    """
    every = wanted.cells()
    compared = [_compared(key, every, ran) for key in ran.measured]
    fit_for = [c for c in compared if c.usable and c.before]
    own = [c for c in fit_for if not c.judged]
    judged = [c for c in fit_for if c.judged]
    if len(own) < MIN_ROWS or not judged:
        return Corrected(tuple(compared), (), (), None)
    rows = _rows(ran.measured)
    half = _profile([rows[c.key] for c in own], wanted.profile, name)
    known = {c.key: predicted(wanted, c.cell, half) for c in fit_for}
    compared = [replace(c, after=known.get(c.key)) for c in compared]
    everything = build_personal(
        [rows[c.key] for c in fit_for],
        wanted.profile,
        name,
        f"{len(fit_for)} cells measured by study --measure",
        lambda *_: None,
    )
    return Corrected(
        tuple(compared),
        _scores([c for c in compared if c.judged and c.after]),
        tuple(_curve(wanted, own, judged, rows)),
        everything.profile,
    )


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
    """Each cell as the row that a calibration takes."""
    table = [{k: str(v) for k, v in row_of(cell).items()} for cell in measured.values()]
    rows, _ = parse_rows(table)
    keys = list(measured)
    return {keys[row.number - 1]: row for row in rows}


def _profile(rows: Sequence[Row], base: Profile, name: str) -> Profile:
    """A profile for one comparison: `build_personal` without the errors it would have to learn."""
    if len(rows) >= MIN_ROWS:
        return build_personal(rows, base, name, "", lambda *_: None).profile
    return _quick(rows, base)


def _quick(rows: Sequence[Row], base: Profile) -> Profile:
    """`base` moved by a few rows; its intervals stay as they are."""
    batches, _ = group(rows)
    import msgspec

    return msgspec.structs.replace(base, offsets=encode(adapted(batches, base)))


def _scores(judged: Sequence[Compared]) -> tuple[Score, ...]:
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
) -> list[CurvePoint]:
    """The error on the judged cells by how many of the others were measured."""
    sizes = [n for n in CURVE_ROWS if n < len(own)] + [len(own)]
    found = []
    for size in sizes:
        draws = 1 if size in (0, len(own)) else DRAWS
        errors: dict[str, list[float]] = {}
        for draw in range(draws):
            chosen = random.Random(f"{size} {draw}").sample(list(own), size)
            used = [rows[c.key] for c in chosen]
            profile = _quick(used, wanted.profile) if used else wanted.profile
            for metric, error in _mean_errors(wanted, judged, profile).items():
                errors.setdefault(metric, []).append(error)
        found += [
            CurvePoint(metric, size, draws, median(e), min(e), max(e))
            for metric, e in errors.items()
        ]
    return found


def _mean_errors(wanted: Wanted, judged: Sequence[Compared], profile: Profile) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for c in judged:
        made = predicted(wanted, c.cell, profile)
        for metric in JUDGED:
            if metric in c.measured.metrics:
                errors.setdefault(metric, []).append(abs(_error_pct(made, c.measured, metric)))
    return {metric: fmean(values) for metric, values in errors.items()}
