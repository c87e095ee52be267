"""Build a profile: fit, hold rows out to learn the error, and write down where it came from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.perfmodel.batches import Batch, group
from shardwise.perfmodel.calibrate import fit
from shardwise.perfmodel.collectives import Collectives
from shardwise.perfmodel.crossval import folds_of, hold_out, in_sample, row_folds
from shardwise.perfmodel.hierarchy import Hierarchy, encode
from shardwise.perfmodel.intervals import HeldOut, coverage_pct, widths_from
from shardwise.perfmodel.profiles import Error, FoldError, Line, Profile, collectives_for
from shardwise.perfmodel.rows import Row

Progress = Callable[[str, int, int], None]
FOLDS: Final = 5
#: Own rows are of one machine and one version, so they may move a coefficient further than a
#: public row of anybody's would. Chosen on two runs of the built-in engine and one of vLLM on two
#: cores: TPOT of the cells left out fell from 8 to 14 % at 1.0 to 7 to 9 %, E2E stayed or fell.
OWN_HOLD: Final = 0.5
MIN_ROWS: Final = 3  #: fewer say nothing about the error that is left


def links_of(lines: list[Line]) -> Callable[[Batch], Collectives]:
    """How a fit finds the collectives of a batch."""
    shell = Profile("lines", "", "", {}, lines)
    siblings = {gpu.id: gpu for gpu in default_catalogue().gpus()}
    return lambda batch: collectives_for(shell, batch.gpu, batch.key.engine, siblings)


def mape(errors: Iterable[HeldOut]) -> float:
    """Mean |predicted / measured - 1| in percent; NaN without rows."""
    parts = [h.errors for h in errors]
    return float(100 * np.mean(np.abs(np.expm1(np.concatenate(parts))))) if parts else float("nan")


def error_table(
    fitted: Sequence[HeldOut], held_out: Sequence[HeldOut], by_row: Sequence[HeldOut] = ()
) -> list[Error]:
    """Errors by GPU, engine and metric: on the fit's own rows, and on rows left out. `by_row`, rows
    left out of a TP that the fit keeps, tell the coverage where no TP could be left out."""
    cells = sorted({(h.gpu, h.engine, h.metric) for h in fitted})

    def of(cell: tuple[str, str, str], errors: Sequence[HeldOut]) -> list[HeldOut]:
        return [h for h in errors if (h.gpu, h.engine, h.metric) == cell]

    return [
        Error(
            *cell,
            rows=sum(len(h.errors) for h in of(cell, fitted)),
            fitted_pct=round(mape(of(cell, fitted)), 2),
            held_out_pct=round(mape(left), 2) if (left := of(cell, held_out)) else None,
            covered_pct=coverage_pct(left or of(cell, by_row)),
        )
        for cell in cells
    ]


def build_reference(
    rows: Sequence[Row], lines: list[Line], provenance: str, progress: Progress
) -> Profile:
    """The whole hierarchy from rows marked `calibrate`, with intervals from what was held out.

    Raises InputError if no row can be used.
    """
    usable = [row for row in rows if row.use == "calibrate"]
    batches, problems = group(usable)
    if not batches:
        reason = f" ({problems[0].reason})" if problems else ""
        raise InputError(f"no row marked 'calibrate' can be used{reason}")
    links = links_of(lines)
    folds = [*folds_of(usable), *row_folds(usable)]
    progress("fit", 0, len(folds))
    hierarchy = fit(batches, links)
    held_out: list[HeldOut] = []
    for done, fold in enumerate(folds, start=1):
        progress(f"without {fold.kind} {fold.name}", done, len(folds))
        held_out += hold_out(usable, fold, links, hierarchy)
    fitted = in_sample(batches, hierarchy, links)
    by_tp = [h for h in held_out if h.fold.startswith("tp_")]
    # left-out errors speak for a pair that keeps three TPs or more; with fewer, leaving one out
    # says how bad extrapolation is, and the pair's own rows say how it fits
    whole = {(h.gpu, h.engine) for h in by_tp if h.fold == "tp_inside"}
    own = [h for h in by_tp if (h.gpu, h.engine) in whole]
    own += [
        h
        for h in in_sample(batches, hierarchy, links, versions=False)
        if (h.gpu, h.engine) not in whole
    ]
    return Profile(
        name="reference",
        created=dt.date.today().isoformat(),
        provenance=provenance,
        offsets=encode(hierarchy),
        lines=lines,
        widths=widths_from(held_out, own),
        errors=error_table(fitted, by_tp, [h for h in held_out if h.fold == "row"]),
        folds=[_fold_error(h) for h in held_out if h.fold != "row"],
        dtypes=_dtypes(batches),
        shapes=_shapes(batches),
        tp_sizes=_tp_sizes(batches),
    )


def _fold_error(h: HeldOut) -> FoldError:
    relative = 100 * np.expm1(h.errors)
    return FoldError(
        h.fold,
        h.left_out,
        h.gpu,
        h.engine,
        h.metric,
        len(h.errors),
        round(float(np.mean(np.abs(relative))), 2),
        round(float(np.mean(relative)), 2),
    )


def _dtypes(batches: Iterable[Batch]) -> list[str]:
    return sorted({f"{b.gpu.id}/{b.key.engine}/{b.key.weight_dtype}" for b in batches})


def _shapes(batches: Iterable[Batch]) -> list[str]:
    return sorted({f"{b.gpu.id}/{b.key.engine}/{b.arch.shape}" for b in batches})


def _tp_sizes(batches: Iterable[Batch]) -> dict[str, list[int]]:
    sizes: dict[str, set[int]] = {}
    for batch in batches:
        known = sizes.setdefault(f"{batch.gpu.id}/{batch.key.engine}", set())
        known.update(row.tp_size for row in batch.rows)
    return {pair: sorted(found) for pair, found in sorted(sizes.items())}


@dataclass(frozen=True)
class Personal:
    """A user's profile and how much it helped, in mean percent error by metric."""

    profile: Profile
    rows: int
    before_pct: dict[str, float]  #: the base profile on the user's rows
    after_pct: dict[str, float]  #: cross-validated: each row judged by a fit without it


def adapted(batches: Sequence[Batch], base: Profile) -> Hierarchy:
    """The offsets of `base`, those of the batches' own GPU and engine pairs moved to explain them,
    and those of a GPU or engine that it knows nothing of; everything shared stays."""
    start = base.hierarchy

    def free(key: tuple[str, ...]) -> bool:
        return key[0] == "pair" or (key[0] in ("gpu", "engine") and key not in start.offsets)

    return fit(batches, links_of(base.lines), start, free, hold=OWN_HOLD)


def build_personal(
    rows: Sequence[Row], base: Profile, name: str, provenance: str, progress: Progress
) -> Personal:
    """Move the offsets of the user's own GPU and engine pairs, and of a GPU or engine that the
    base knows nothing of, keeping everything shared.

    Raises InputError if fewer than three rows can be used.
    """
    batches, problems = group(rows)
    used = [row for batch in batches for row in batch.rows if row.observed]
    if len(used) < MIN_ROWS:
        reason = f" ({problems[0].reason})" if problems else ""
        raise InputError(
            f"{len(used)} usable rows{reason}", f"allowed: {MIN_ROWS} or more measured rows"
        )
    links = links_of(base.lines)
    before = in_sample(batches, base.hierarchy, links)
    after: list[HeldOut] = []
    folds = min(FOLDS, len(used))
    for k in range(folds):
        progress("cross-validate", k + 1, folds)
        kept, _ = group([row for i, row in enumerate(used) if i % folds != k])
        judged, _ = group([row for i, row in enumerate(used) if i % folds == k])
        after += in_sample(judged, adapted(kept, base), links)
    hierarchy = adapted(batches, base)
    metrics = sorted({h.metric for h in before})
    profile = Profile(
        name=name,
        created=dt.date.today().isoformat(),
        provenance=provenance,
        offsets=encode(hierarchy),
        lines=base.lines,
        widths={**base.widths, **widths_from((), after)},
        errors=error_table(in_sample(batches, hierarchy, links), after),
        dtypes=sorted({*base.dtypes, *_dtypes(batches)}),
        shapes=sorted({*base.shapes, *_shapes(batches)}),
        tp_sizes={**base.tp_sizes, **_tp_sizes(batches)},
    )
    return Personal(
        profile,
        len(used),
        {m: mape([h for h in before if h.metric == m]) for m in metrics},
        {m: mape([h for h in after if h.metric == m]) for m in metrics},
    )
