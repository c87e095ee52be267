"""How far a prediction may be off: half-widths of 80 % intervals, from held-out errors.

A half-width is in logs, so an interval is value x exp(-w) to value x exp(+w). What the profile has
seen decides which errors count: the same GPU and engine with a TP left out, or in the same version
with rows left out; a GPU or engine that was never fitted; a weight dtype or a model that was never
fitted there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shardwise.layout.deployment import Layout
from shardwise.perfmodel.profiles import Profile
from shardwise.perfmodel.work import Array

LEVEL: Final = 0.80  #: share of unseen rows that should fall in the interval
#: Where nothing was held out at all: a factor of two either way for TTFT, 1.5 for the rest.
_BLIND: Final = {"ttft_s": 0.7}
_BLIND_OTHER: Final = 0.4
METRICS: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")
#: Metrics that share another's width.
_SAME_AS: Final = {"total_tok_s": "output_tok_s", "usd_per_million_output_tok": "output_tok_s"}


@dataclass(frozen=True)
class HeldOut:
    """Errors of rows that a fit did not see: log(predicted / measured)."""

    fold: str  #: as `crossval.Fold.kind`; "none": the fit's own rows
    gpu: str
    engine: str
    metric: str
    errors: Array
    left_out: str = ""  #: the fold's name


def widths_from(held_out: Iterable[HeldOut], own: Iterable[HeldOut] = ()) -> dict[str, float]:
    """The 80th percentile of |error|: of each kind of fold and metric, and of `own`, the errors
    that speak for a GPU and engine themselves."""
    pooled: dict[str, list[Array]] = {}
    for h in held_out:
        if h.fold == "row":  # of a pair with several versions, each of them known
            pooled.setdefault(f"version/{h.gpu}/{h.engine}/{h.metric}", []).append(h.errors)
            continue
        pooled.setdefault(f"{h.fold}/{h.metric}", []).append(h.errors)
        if h.fold == "tp_inside":
            pooled.setdefault(f"{h.fold}/{h.engine}/{h.metric}", []).append(h.errors)
    for h in own:
        pooled.setdefault(f"pair/{h.gpu}/{h.engine}/{h.metric}", []).append(h.errors)
    return {
        key: round(float(np.quantile(np.abs(np.concatenate(parts)), LEVEL)), 4)
        for key, parts in sorted(pooled.items())
    }


def coverage_pct(held_out: Sequence[HeldOut]) -> float | None:
    """Percent of left-out rows within the 80th percentile of the other folds' errors: no row has a
    part in the width that judges it. None for fewer than three folds."""
    parts = [np.abs(h.errors) for h in held_out]
    if len(parts) < 3:
        return None
    inside = 0
    for i, part in enumerate(parts):
        width = np.quantile(np.concatenate(parts[:i] + parts[i + 1 :]), LEVEL)
        inside += int(np.sum(part <= width))
    return 100.0 * inside / sum(len(part) for part in parts)


@dataclass(frozen=True)
class Seen:
    """What a profile knows about a configuration's surroundings."""

    gpu: str
    engine: str
    weight_dtype: str
    shape: str  #: of the model, as `Model.shape`
    levels: tuple[str, ...]

    @property
    def is_calibrated(self) -> bool:
        return "pair" in self.levels


def half_width(
    profile: Profile,
    seen: Seen,
    metric: str,
    layout: Layout,
) -> float:
    """Half-width (log) of the 80 % interval of `metric` for what was `seen`, in a layout.

    No row with PP, expert parallelism or data-parallel attention was ever fitted, so each adds
    the error of an outer TP left out.
    """
    name = _SAME_AS.get(metric, metric)
    blind = _BLIND.get(name, _BLIND_OTHER)
    widths: Mapping[str, float] = profile.widths
    if seen.is_calibrated:
        own = widths.get(f"pair/{seen.gpu}/{seen.engine}/{name}")
        if "version" in seen.levels:
            own = widths.get(f"version/{seen.gpu}/{seen.engine}/{name}", own)
        base = own if own is not None else widths.get(f"tp_edge/{name}", blind)
    else:
        folds = [fold for fold in ("gpu", "engine") if fold not in seen.levels]
        folds = folds or ["gpu"]  # both known, never together
        parts = [widths.get(f"{fold}/{name}", blind) for fold in folds]
        base = float(np.hypot.reduce(parts))
    if seen.is_calibrated:
        pair = f"{seen.gpu}/{seen.engine}"
        if f"{pair}/{seen.weight_dtype}" not in profile.dtypes:
            base = float(np.hypot(base, widths.get(f"dtype/{name}", blind / 2)))
        elif f"{pair}/{seen.shape}" not in profile.shapes:
            base = max(base, widths.get(f"model/{name}", base))
        base = _beyond_tps(profile, pair, name, base, layout.tp_size)
    unmeasured = (layout.pp_size > 1, layout.expert_parallel, layout.attention_dp > 1)
    for _ in range(sum(unmeasured)):
        base = float(np.hypot(base, widths.get(f"tp_edge/{name}", blind / 2)))
    return base


def _beyond_tps(profile: Profile, pair: str, metric: str, base: float, tp_size: int) -> float:
    """A TP between those fitted is as uncertain as such TPs were when left out; one beyond them
    adds what was missed there."""
    known = profile.tp_sizes.get(pair, [])
    if tp_size in known or not known:
        return base
    widths, engine = profile.widths, pair.split("/")[1]
    if known[0] < tp_size < known[-1]:
        pooled = widths.get(f"tp_inside/{metric}", base)
        return max(base, widths.get(f"tp_inside/{engine}/{metric}", pooled))
    return float(np.hypot(base, widths.get(f"tp_edge/{metric}", base)))
