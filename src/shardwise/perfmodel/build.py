"""Build a profile: fit, cross-validate, and record its provenance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from shardwise.errors import InputError
from shardwise.perfmodel.batches import Batch, GpuOf, group, usual_gpu
from shardwise.perfmodel.calibrate import FIRST_HOLD, fit, problem_of
from shardwise.perfmodel.crossval import Miss, folds_of, hold_out, in_sample, kernels_alone
from shardwise.perfmodel.hierarchy import Hierarchy, encode
from shardwise.perfmodel.intervals import (
    LEVEL,
    Distance,
    Groups,
    by_group,
    group_quantile,
    kind_of,
    other_kind,
    quantile,
    width_of,
    widths_from,
)
from shardwise.perfmodel.knowledge import knowledge_of
from shardwise.perfmodel.profiles import STRUCTURE, Error, FoldError, Line, Profile, Seen
from shardwise.perfmodel.rows import Row
from shardwise.perfmodel.shrinking import CANDIDATES, HOLDS, NONE, WHOLE, Shares, supported, toward

Progress = Callable[[str, int, int], None]
FOLDS: Final = 5
LEAST_GROUPS: Final = 3  #: that judge each other's coverage
MIN_ROWS: Final = 3  #: fewer say nothing about the error that is left


def mape(misses: Iterable[Miss]) -> float:
    """Mean |predicted / measured - 1| in percent; NaN without rows."""
    errors = np.array([m.error for m in misses])
    return float(100 * np.mean(np.abs(np.expm1(errors)))) if len(errors) else float("nan")


def error_table(fitted: Sequence[Miss], held_out: Sequence[Miss]) -> list[Error]:
    """Return errors by GPU, engine and metric: on the rows of the fit, and on held-out rows."""
    cells = sorted({(m.gpu, m.engine, m.metric) for m in fitted})

    def of(cell: tuple[str, str, str], misses: Sequence[Miss]) -> list[Miss]:
        return [m for m in misses if (m.gpu, m.engine, m.metric) == cell]

    return [
        Error(
            *cell,
            rows=len(of(cell, fitted)),
            fitted_pct=round(mape(of(cell, fitted)), 2),
            held_out_pct=round(mape(left), 2) if (left := of(cell, held_out)) else None,
        )
        for cell in cells
    ]


def fold_errors(misses: Sequence[Miss], widths: Mapping[str, float]) -> list[FoldError]:
    """Return errors by kind of fold, kind of model and name of the width."""
    parts: dict[tuple[str, str, str], list[Miss]] = {}
    for m in misses:
        parts.setdefault((m.fold, kind_of(m.moe), m.width), []).append(m)
    groups = by_group(misses)
    return [
        FoldError(
            *key,
            len(some),
            round(100 * float(np.median([abs(np.expm1(m.error)) for m in some])), 2),
            round(mape(some), 2),
            round(100 * float(np.mean([np.expm1(m.error) for m in some])), 2),
            round(covered_pct(some, widths), 1),
            crossed_pct(key[2], groups[key], groups.get(other_kind(key), {})),
        )
        for key, some in sorted(parts.items())
    ]


def covered_pct(misses: Sequence[Miss], widths: Mapping[str, float]) -> float:
    """Return the percentage of held-out rows within their interval."""
    inside = [abs(m.error) <= width_of(widths, Distance(m.unseen, m.moe), m.width) for m in misses]
    return 100.0 * float(np.mean(inside))


def crossed_pct(metric: str, own: Groups, other: Groups, level: float = LEVEL) -> float | None:
    """Return the percentage of held-out rows within the width of `metric` computed from the other
    groups. None for fewer than three groups."""
    if len({*own, *other}) < LEAST_GROUPS:
        return None
    inside = 0
    for name, errors in own.items():
        mine, others = ({g: e for g, e in some.items() if g != name} for some in (own, other))
        inside += int(np.sum(np.abs(errors) <= group_quantile(mine, others, metric, level)))
    return round(100.0 * inside / sum(len(errors) for errors in own.values()), 1)


def plain(rows: Iterable[Row]) -> list[Row]:
    """Return the rows for a fit: marked `calibrate`, without duplicates, without speculation.

    A copy does not say what its source does, so duplicates are removed first.
    """
    marked = without_copies(row for row in rows if row.use == "calibrate")
    return [row for row in marked if row.is_plain]


def without_copies(rows: Iterable[Row]) -> list[Row]:
    """Remove duplicates: rows with equal TTFT and TPOT to four digits in the same configuration
    are one run published twice. The row whose source names the client is kept."""
    ordered = list(rows)
    told = {_measurement(row) for row in ordered if row.requests_told} - {None}
    return [row for row in ordered if row.requests_told or _measurement(row) not in told]


def _measurement(row: Row) -> tuple[object, ...] | None:
    """Return the key of a run for finding duplicates; None without TTFT and TPOT."""
    if not {"ttft_s", "tpot_s"} <= row.observed.keys():
        return None
    times = (f"{1e3 * row.observed[m]:.1f}" for m in ("ttft_s", "tpot_s"))
    return (row.model, row.gpu, row.engine, row.layout, row.concurrency, *times)


def build_reference(
    rows: Sequence[Row], lines: list[Line], provenance: str, progress: Progress
) -> Profile:
    """Fit the whole hierarchy to rows marked `calibrate`, with intervals from held-out rows.

    Raises InputError if no row can be used.
    """
    batches, problems = group(plain(rows))
    if not batches:
        reason = f" ({problems[0].reason})" if problems else ""
        raise InputError(f"no row marked 'calibrate' can be used{reason}")
    problem = problem_of(batches)
    folds = list(folds_of(batches))
    progress("fit", 0, len(folds))
    hierarchy = fit(problem, fit(problem, hold=FIRST_HOLD))
    misses = kernels_alone(problem)
    for done, fold in enumerate(folds, start=1):
        progress(f"without {fold.kind}", done, len(folds))
        misses += hold_out(problem, fold, hierarchy)
    widths = widths_from(misses)
    return Profile(
        name="reference",
        created=dt.date.today().isoformat(),
        provenance=provenance,
        offsets=encode(hierarchy),
        lines=lines,
        widths=widths,
        errors=error_table(
            in_sample(problem, hierarchy), [m for m in misses if m.fold == "layout"]
        ),
        folds=fold_errors(misses, widths),
        seen=seen_in(batches),
        structure=STRUCTURE,
    )


def seen_in(batches: Sequence[Batch]) -> Seen:
    """Return what the rows of batches cover, in the form of a profile."""
    known = knowledge_of((b, [r.layout for r in b.rows]) for b in batches)
    return Seen(
        {pair: sorted(some) for pair, some in sorted(known.versions.items())},
        sorted(known.families),
        sorted(known.dtypes),
        {cell: sorted(some) for cell, some in sorted(known.layouts.items())},
        {pair: sorted(some) for pair, some in sorted(known.plugins.items())},
    )


class Personal(msgspec.Struct, frozen=True):
    """A user's profile and its mean errors before and after, in percent by metric."""

    profile: Profile
    rows: int
    before_pct: dict[str, float]  #: the base profile on the user's rows
    after_pct: dict[str, float]  #: cross-validated: each row judged by a fit without it
    shares: Shares  #: of the correction, that are kept
    is_supported: bool  #: by held-out rows; otherwise the base profile predicts them as well


def adapted(batches: Sequence[Batch], base: Profile, hold: float = HOLDS[0]) -> Hierarchy:
    """Fit the offsets of the batches' own pairs of GPU and engine, and of a GPU or engine unknown
    to `base`; shared offsets are kept."""
    start = base.hierarchy

    def free(key: tuple[str, ...]) -> bool:
        return key[0] == "pair" or (key[0] in ("gpu", "engine") and key not in start.offsets)

    return fit(batches, start, free, hold=hold)


def build_personal(
    rows: Sequence[Row],
    base: Profile,
    name: str,
    provenance: str,
    progress: Progress,
    force: bool = False,
    gpu_of: GpuOf = usual_gpu,
) -> Personal:
    """Fit the offsets of the user's own pairs of GPU and engine, and of a GPU or engine unknown to
    the base; shared offsets are kept.

    The correction is scaled by the shares that held-out rows support; with `force` it is applied
    fully if they support none. `gpu_of` looks up the GPU of a row. Raises InputError if fewer than
    three rows can be used.
    """
    batches, problems = group(rows, gpu_of)
    used = [row for batch in batches for row in batch.rows if row.observed]
    if len(used) < MIN_ROWS:
        reason = f" ({problems[0].reason})" if problems else ""
        raise InputError(
            f"{len(used)} usable rows{reason}", f"allowed: {MIN_ROWS} or more measured rows"
        )
    before, candidates = _left_out(used, base, progress, gpu_of)
    found = supported(before, candidates)
    shares = WHOLE if force and found == NONE else found
    after = before if shares == NONE else candidates[shares]
    hierarchy = toward(base.hierarchy, adapted(batches, base, shares.hold), shares)
    metrics = sorted({h.metric for h in before})
    profile = Profile(
        name=name,
        created=dt.date.today().isoformat(),
        provenance=provenance,
        offsets=encode(hierarchy),
        lines=base.lines,
        widths=base.widths,
        own_widths={**base.own_widths, **_own_widths(after)},
        errors=error_table(in_sample(problem_of(batches), hierarchy), after),
        seen=base.seen.with_more(seen_in(batches)),
        structure=STRUCTURE,
    )
    return Personal(
        profile,
        len(used),
        {m: mape([h for h in before if h.metric == m]) for m in metrics},
        {m: mape([h for h in after if h.metric == m]) for m in metrics},
        shares,
        found != NONE,
    )


def _left_out(
    used: Sequence[Row], base: Profile, progress: Progress, gpu_of: GpuOf
) -> tuple[list[Miss], dict[Shares, list[Miss]]]:
    """Return the errors of `base` on each row, and with each share of the correction of a fit
    without that row."""
    before: list[Miss] = []
    after: dict[Shares, list[Miss]] = {shares: [] for shares in CANDIDATES}
    folds = min(FOLDS, len(used))
    for k in range(folds):
        progress("cross-validate", k + 1, folds)
        kept, _ = group([row for i, row in enumerate(used) if i % folds != k], gpu_of)
        left, _ = group([row for i, row in enumerate(used) if i % folds == k], gpu_of)
        judged = problem_of(left)
        fitted = {hold: adapted(kept, base, hold) for hold in HOLDS}
        before += in_sample(judged, base.hierarchy)
        for shares in after:
            after[shares] += in_sample(judged, toward(base.hierarchy, fitted[shares.hold], shares))
    return before, after


def _own_widths(misses: Sequence[Miss]) -> dict[str, float]:
    """Return interval widths of the user's own pairs, from cross-validated errors."""
    parts: dict[str, list[float]] = {}
    for m in misses:
        parts.setdefault(f"{m.gpu}/{m.engine}/{m.width}", []).append(m.error)
    return {key: round(quantile(errors), 4) for key, errors in parts.items()}
