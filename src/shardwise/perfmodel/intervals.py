"""Half-widths of 80 % intervals, from errors on held-out rows.

A half-width is in logs, so an interval is value x exp(-w) to value x exp(+w). The errors are those
of rows that were held out in the same way as the question is new (`knowledge`). Each width is the
quantile that covers 80 % of these errors (split conformal prediction, Vovk et al. 2005),
separately for dense and MoE models. A new question usually belongs to a new group (a family, a
GPU), so large groups have less weight than their number of rows, and the other kind of model
counts as one more group (between row and group weights of Dunn, Wasserman and Ramdas 2022,
"Distribution-free prediction sets for two-layer hierarchical models").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from shardwise.layout.deployment import Layout
from shardwise.layout.speculation import Speculation
from shardwise.perfmodel.knowledge import Asked, Unseen
from shardwise.perfmodel.work import Array

if TYPE_CHECKING:
    from shardwise.perfmodel.crossval import Miss
    from shardwise.perfmodel.profiles import Profile

LEVEL: Final = 0.80  #: share of unseen rows that should be in the interval
#: Half-width (log) if no row was held out: a factor of 2 either way for TTFT, 1.5 for other
#: metrics.
_BLIND: Final = {"ttft_s": 0.7}
_BLIND_OTHER: Final = 0.4
#: Least half-widths (log). A factor of 2 either way where an engine's kernels were never timed: on
#: an H100 the built-in engine took 1.5 to 1.9 times the TPOT that vLLM's kernels give
#: (results/gpu_checks_h100.json).
_LEAST: Final[Mapping[Unseen, float]] = {"untimed": 0.7}
#: Correlation of the errors of two layouts of one model on one GPU: 0.67 to 0.77 on the reference
#: rows with several TPs (docs/accuracy.md says how it was found).
LAYOUT_RHO: Final = 0.75
#: Name of the width of throughput if everything is queued at once.
QUEUED: Final = "queued_tok_s"
METRICS: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")
#: Metrics that share another's width.
_SAME_AS: Final = {"total_tok_s": "output_tok_s", "usd_per_million_output_tok": "output_tok_s"}
#: A group's weight is its number of rows to this power: 1 weights rows equally, 0 weights groups
#: equally.
_BY_ROWS: Final = 0.5
_FEW: Final = 10  #: rows; a row of a smaller group weighs as much as one of a group of this size
#: Weight of the other kind of model, in groups. Chosen so that intervals from the other groups
#: cover 75 to 88 % of the rows of a held-out group.
_OTHER_KIND: Final = 0.3
#: The same by metric, where it differs: queued MoE runs have twice the errors of dense ones.
OTHER_KIND: Final[Mapping[str, float]] = {QUEUED: 0.0}
#: Correction for few groups, by metric: the level of the quantile is this share of the rest, over
#: the number of groups, higher. Conformal sets of n exchangeable groups would need 4. Chosen like
#: _OTHER_KIND. TTFT includes host time, which differs between groups more than within one.
FEW_GROUPS: Final[Mapping[str, float]] = {"ttft_s": 0.3}
NEAR: Final = "row"  #: the fold that holds out only the row itself


def ratio_width(first: float, second: float, rho: float = LAYOUT_RHO) -> float:
    """Return the half-width (log) of the 80 % interval of a ratio of two predictions, from their
    widths and the correlation of their errors."""
    return float(np.sqrt(max(first**2 + second**2 - 2.0 * rho * first * second, 0.0)))


def kind_of(moe: bool) -> str:
    """Return `moe` or `dense`."""
    return "moe" if moe else "dense"


def quantile(errors: Sequence[float] | Array) -> float:
    """Return the 80th percentile of |error|, with the finite-sample correction of conformal
    sets."""
    sizes = np.sort(np.abs(np.asarray(errors)))
    place = int(np.ceil(LEVEL * (len(sizes) + 1))) - 1
    return float(sizes[min(place, len(sizes) - 1)])


Groups = Mapping[str, Sequence[float]]  #: errors by held-out group


def group_quantile(own: Groups, other: Groups, metric: str = "", level: float = LEVEL) -> float:
    """Return the weighted quantile `level` of |error|.

    Args:
        own: Errors of the groups of the same kind of model.
        other: Errors of the groups of the other kind, which count as part of one group.
        metric: Name of the width, for its `OTHER_KIND` and `FEW_GROUPS`.
        level: Share of the rows of a new group that should be covered.
    """
    few = FEW_GROUPS.get(metric, 0.0)
    beside = OTHER_KIND.get(metric, _OTHER_KIND) if own else 1.0
    errors, weights = [], []
    for groups, mass in ((own, _effective(own)), (other, beside)):
        if not groups:
            continue
        sizes = {g: max(len(e), _FEW) for g, e in groups.items()}
        each = {g: sizes[g] ** (_BY_ROWS - 1.0) for g in groups}
        whole = sum(each[g] * len(e) for g, e in groups.items())
        for g, some in groups.items():
            errors.append(np.abs(np.asarray(some, np.float64)))
            weights.append(np.full(len(some), mass * each[g] / whole))
    sizes_, shares = np.concatenate(errors), np.concatenate(weights)
    order = np.argsort(sizes_)
    reached = np.cumsum(shares[order])
    masses = float(reached[-1])  # own groups and the other kind
    asked = min(level + (1.0 - level) * few / masses, 1.0)
    place = int(np.searchsorted(reached, asked * masses * (1.0 - 1e-12)))
    return float(sizes_[order][min(place, len(order) - 1)])


def _effective(groups: Groups) -> float:
    """Return the effective number of equal groups."""
    rows = np.array([len(errors) for errors in groups.values()], np.float64)
    return float(rows.sum() ** 2 / np.sum(rows**2)) if len(rows) else 0.0


def by_group(misses: Iterable[Miss]) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """Return errors by (fold, kind of model, name of the width), then by held-out group."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for m in misses:
        groups = found.setdefault((m.fold, kind_of(m.moe), m.width), {})
        groups.setdefault(m.name, []).append(m.error)
    return found


def other_kind(key: tuple[str, str, str]) -> tuple[str, str, str]:
    """Return the key of the same fold and metric for the other kind of model."""
    fold, kind, metric = key
    return fold, kind_of(kind == "dense"), metric


def widths_from(misses: Iterable[Miss]) -> dict[str, float]:
    """Return widths by "fold/kind of model/name"."""
    parts = by_group(misses)
    return {
        "/".join(key): round(group_quantile(groups, parts.get(other_kind(key), {}), key[2]), 4)
        for key, groups in sorted(parts.items())
    }


class Distance(msgspec.Struct, frozen=True):
    """Properties of a question that no calibration row has, and the kind of its model."""

    unseen: tuple[Unseen, ...]
    moe: bool


def width_name(metric: str, mode: str = "closed_loop") -> str:
    """Return the name of a metric's width. Throughput has one of its own if everything is queued,
    because its errors are larger: tails and clients differ more than steps."""
    name = _SAME_AS.get(metric, metric)
    return QUEUED if (name, mode) == ("output_tok_s", "max_throughput") else name


def half_width(
    profile: Profile, asked: Asked, metric: str, layout: Layout, mode: str = "closed_loop"
) -> float:
    """Return the half-width (log) of the 80 % interval of `metric` for a question in a layout."""
    return half_widths(profile, asked, (metric,), layout, mode)[metric]


def half_widths(
    profile: Profile,
    asked: Asked,
    metrics: Iterable[str],
    layout: Layout,
    mode: str = "closed_loop",
) -> dict[str, float]:
    """Return `half_width` for each of `metrics`."""
    unseen = profile.knowledge.unseen(asked, layout)
    return {m: _half_width(profile, asked, width_name(m, mode), unseen) for m in metrics}


def _half_width(profile: Profile, asked: Asked, name: str, unseen: tuple[Unseen, ...]) -> float:
    own = profile.own_widths.get(f"{asked.pair}/{name}")
    if own is not None and not unseen:
        return own
    width = width_of(profile.widths, Distance(unseen, asked.moe), name)
    if "gpu" in unseen:  # held-out GPUs still had their own kernel tables
        return float(np.hypot(width, asked.kernel_error))
    return width


def width_of(widths: Mapping[str, float], distance: Distance, name: str) -> float:
    """Return the width of a distance, by the width's name. If several properties are new, their
    errors are assumed independent."""
    blind = _BLIND.get(name, _BLIND_OTHER)

    def learnt(fold: str) -> float | None:
        kinds = (kind_of(distance.moe), kind_of(not distance.moe))
        return next((w for k in kinds if (w := widths.get(f"{fold}/{k}/{name}"))), None)

    near = learnt(NEAR) or blind / 4.0
    if not distance.unseen:
        return near
    parts = [max(learnt(_AS.get(u, u)) or blind, near, _LEAST.get(u, 0.0)) for u in distance.unseen]
    beyond = sum(max(p**2 - near**2, 0.0) for p in parts)
    return float(np.sqrt(near**2 + beyond))


#: Error (log) of the ratio of TPOT without and with speculation, if the acceptance is known from
#: other runs of the engine. 80th percentile over the pairs of serving_2026.csv.
SPECULATION_WIDTH: Final = 0.12


def with_speculation(width: float, speculation: Speculation | None, metric: str) -> float:
    """Return `width` with the error of the speculation model and the range of the acceptance.

    Errors are assumed independent. TTFT is unchanged, because the first token is not drafted.
    """
    if speculation is None or metric == "ttft_s":
        return width
    share = speculation.acceptance
    least, most = (speculation.tokens_per_step(end) for end in (share.lo, share.hi))
    return float(np.hypot(np.hypot(width, SPECULATION_WIDTH), np.log(most / least) / 2.0))


#: New properties without a fold of their own, and the fold that they use instead.
_AS: Final[Mapping[str, str]] = {"pair": "gpu", "plugin": "gpu", "links": "gpu"}
