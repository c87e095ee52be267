"""Compare two runs of the same loads, cell by cell: whether B is slower than A, and by how much.

A change is B compared with A in percent. Its interval is that of the ratio of two separate runs
(`analysis.intervals.ratio`, correlation 0), so each cell needs an interval, which measured cells
get from repeats. There is no verdict without intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from shardwise import metrics
from shardwise.analysis.intervals import as_percent_change, ratio
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval

Verdict = Literal["slower", "faster", "no difference seen", "no interval"]
COMPARED: Final = (metrics.TTFT, metrics.TPOT, metrics.E2E, metrics.OUTPUT_THROUGHPUT)
#: A change is detected if it exceeds the half-width of its 80 % interval (1.282 standard errors).
#: For detection in 80 % of attempts, it must be larger by 0.842 standard errors: the 90th and 80th
#: percentiles of the normal distribution (NIST/SEMATECH e-Handbook, section 7.2.2.2).
POWER_FACTOR: Final = (1.282 + 0.842) / 1.282
SUBJECT: Final = ("model", "gpu", "engine", "weight dtype", "KV dtype")


class Load(msgspec.Struct, frozen=True):
    """The layout and load, which must be equal in both runs."""

    layout: str
    replicas: int
    isl: float
    osl: float
    mode: str
    concurrency: int
    request_rate: float | None


class Change(msgspec.Struct, frozen=True):
    """One metric of one cell, or of all cells together (`load` None), in A and in B.

    `smallest_seen_pct` is the smallest change that repeats like these detect in 80 % of attempts;
    None if a value has no interval. `a` and `b` are None for all cells together.
    """

    load: Load | None
    metric: str
    a: Interval | None
    b: Interval | None
    change_pct: Interval
    smallest_seen_pct: float | None

    @property
    def slower_pct(self) -> Interval:
        """Percent by which B is slower: a higher latency or a lower throughput."""
        c = self.change_pct
        if metrics.ALL[self.metric].lower_is_better:
            return c
        return Interval(-c.value, -c.hi, -c.lo, c.n)

    @property
    def verdict(self) -> Verdict:
        """Verdict according to the interval."""
        if self.smallest_seen_pct is None:
            return "no interval"
        slower = self.slower_pct
        if slower.lo > 0:
            return "slower"
        return "faster" if slower.hi < 0 else "no difference seen"


class Comparison(msgspec.Struct, frozen=True):
    """B compared with A. `overall` has the geometric mean of each metric over the cells.

    `differing` names fields with different values in the two runs, such as the engine; `only_a`
    and `only_b` are loads without a counterpart.
    """

    overall: tuple[Change, ...]
    cells: tuple[Change, ...]
    differing: Mapping[str, tuple[str, str]]
    only_a: tuple[Load, ...]
    only_b: tuple[Load, ...]


def compare_runs(a: Sequence[Evidence], b: Sequence[Evidence]) -> Comparison:
    """Compare two runs at their common loads.

    Model, GPU, engine and dtypes must match too, unless each run has only one: two engines can be
    compared, and `differing` names them.

    Raises InputError if a run has two results for one load, or there are no common loads.
    """
    differing = _differing(a, b)
    cells_a, cells_b = _by_key(a, differing, "A"), _by_key(b, differing, "B")
    shared = [key for key in cells_a if key in cells_b]
    changes = tuple(
        _change(_load(cells_a[key]), metric.name, cells_a[key], cells_b[key])
        for key in shared
        for metric in COMPARED
        if metric.name in cells_a[key].metrics and metric.name in cells_b[key].metrics
    )
    if not changes:
        raise InputError(
            f"the runs have no common cells ({len(cells_a)} in A, {len(cells_b)} in B)",
            "needed: the same TP, lengths and load, and a common metric",
        )
    return Comparison(
        overall=_overall(changes),
        cells=changes,
        differing=differing,
        only_a=tuple(_load(item) for key, item in cells_a.items() if key not in cells_b),
        only_b=tuple(_load(item) for key, item in cells_b.items() if key not in cells_a),
    )


def slower_by(comparison: Comparison, limit_pct: float) -> tuple[Change, ...]:
    """Return the changes in which B is slower by `limit_pct` or more.

    Overall: the value reaches the limit and its interval excludes zero. Single cell: the whole
    interval is beyond the limit, because some of many cells vary by chance.
    """
    overall = [c for c in comparison.overall if c.verdict == "slower"]
    cells = [c for c in comparison.cells if c.verdict == "slower"]
    return (
        *(c for c in overall if c.slower_pct.value >= limit_pct),
        *(c for c in cells if c.slower_pct.lo >= limit_pct),
    )


def blind_at(comparison: Comparison, limit_pct: float) -> tuple[Change, ...]:
    """Return overall changes in which a slowdown of `limit_pct` could not be detected."""
    return tuple(
        c
        for c in comparison.overall
        if c.smallest_seen_pct is None or c.smallest_seen_pct > limit_pct
    )


def _change(load: Load, metric: str, before: Evidence, after: Evidence) -> Change:
    a, b = before.metrics[metric], after.metrics[metric]
    for name, value in (("A", a), ("B", b)):
        if not 0 < value.lo <= value.value <= value.hi < math.inf:
            raise InputError(
                f"{metric} in {name} is {value.value:g} ({value.lo:g} to {value.hi:g})",
                "allowed: finite, above 0, the value inside its interval",
            )
    changed = ratio(b, a)
    known = a.lo < a.hi and b.lo < b.hi
    return Change(
        load,
        metric,
        a,
        b,
        as_percent_change(changed),
        _smallest(metric, changed) if known else None,
    )


def _smallest(metric: str, changed: Interval) -> float:
    """Return the smallest detectable slowdown in percent, given the widths of a ratio B/A."""
    if metrics.ALL[metric].lower_is_better:
        return (math.exp(POWER_FACTOR * math.log(changed.value / changed.lo)) - 1.0) * 100.0
    return (1.0 - math.exp(-POWER_FACTOR * math.log(changed.hi / changed.value))) * 100.0


def _overall(changes: Sequence[Change]) -> tuple[Change, ...]:
    by_metric: dict[str, list[Change]] = {}
    for change in changes:
        by_metric.setdefault(change.metric, []).append(change)
    return tuple(_mean(metric, found) for metric, found in by_metric.items())


def _mean(metric: str, changes: Sequence[Change]) -> Change:
    """Return the geometric mean of the ratios of separate cells; log-widths add in quadrature."""
    ratios = [1.0 + c.change_pct.value / 100.0 for c in changes]
    lows = [1.0 + c.change_pct.lo / 100.0 for c in changes]
    highs = [1.0 + c.change_pct.hi / 100.0 for c in changes]
    count = len(changes)
    value = math.exp(sum(map(math.log, ratios)) / count)
    lower = math.hypot(*(math.log(r / lo) for r, lo in zip(ratios, lows, strict=True))) / count
    upper = math.hypot(*(math.log(hi / r) for r, hi in zip(ratios, highs, strict=True))) / count
    changed = Interval(value, value * math.exp(-lower), value * math.exp(upper), count)
    known = all(c.smallest_seen_pct is not None for c in changes)
    smallest = _smallest(metric, changed) if known else None
    return Change(None, metric, None, None, as_percent_change(changed), smallest)


def _subject(item: Evidence) -> tuple[str, ...]:
    d = item.deployment
    return (d.model, d.gpu, d.engine, d.dtypes.weight, d.dtypes.kv)


def _differing(a: Iterable[Evidence], b: Iterable[Evidence]) -> dict[str, tuple[str, str]]:
    """Return fields with a single value per run that differs between the runs."""
    in_a, in_b = zip(*map(_subject, a), strict=True), zip(*map(_subject, b), strict=True)
    return {
        name: (of_a[0], of_b[0])
        for name, of_a, of_b in zip(SUBJECT, in_a, in_b, strict=True)
        if len(set(of_a)) == len(set(of_b)) == 1 and of_a[0] != of_b[0]
    }


def _by_key(
    run: Iterable[Evidence], differing: Iterable[str], name: str
) -> dict[tuple[object, ...], Evidence]:
    left_out = set(differing)
    found: dict[tuple[object, ...], Evidence] = {}
    for item in run:
        subject = zip(SUBJECT, _subject(item), strict=True)
        key = (_load(item), *(value for field, value in subject if field not in left_out))
        if key in found:
            load = _load(item)
            raise InputError(
                f"run {name} has two results for {load.layout} at concurrency {load.concurrency}",
                "allowed: one for each load",
                "choose a study of the store with --study-a or --study-b",
            )
        found[key] = item
    return found


def _load(item: Evidence) -> Load:
    d, w = item.deployment, item.workload
    return Load(
        d.layout.name,
        d.layout.replicas,
        round(w.isl),
        round(w.osl),
        w.mode,
        w.concurrency,
        w.request_rate,
    )
