"""How much of a correction is kept: as much as rows left out support, and none that is chance.

A fit to a dozen rows corrects what they show and moves what they do not. Each offset is therefore
moved from where it started by a share of the way to the fit. There are two shares: of what a step
takes, and of what passes outside steps, which TTFT shows and TPOT hardly does. They are those that
predict the rows left out best and make no metric of them worse; both are 0 where the gain could be
chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwise.perfmodel.crossval import Miss
from shardwise.perfmodel.hierarchy import NAMES, Hierarchy
from shardwise.perfmodel.work import Array

#: Coefficients of the time outside steps.
OUTSIDE: Final = frozenset({"request", "wait_steps", "ahead", "handle", "stream"})
_IS_OUTSIDE: Final = np.array([name in OUTSIDE for name in NAMES])
_LEVELS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_SLACK: Final = 1e-9  #: of an error, where a metric does not change at all


class Shares(msgspec.Struct, frozen=True):
    """Of a correction, what is kept: 0 is none of it, 1 all."""

    steps: float
    outside: float


NONE: Final = Shares(0.0, 0.0)
WHOLE: Final = Shares(1.0, 1.0)
CANDIDATES: Final = tuple(Shares(*pair) for pair in product(_LEVELS, repeat=2))


def toward(start: Hierarchy, fitted: Hierarchy, shares: Shares) -> Hierarchy:
    """`start` moved towards `fitted` by `shares`; an offset that `start` lacks is zero there."""
    kept = np.where(_IS_OUTSIDE, shares.outside, shares.steps)
    moved = {
        key: origin + kept * (end - origin)
        for key, end in fitted.offsets.items()
        for origin in (start.offsets.get(key, np.zeros(len(NAMES))),)
    }
    return Hierarchy({**start.offsets, **moved})


def supported(before: Sequence[Miss], after: Mapping[Shares, Sequence[Miss]]) -> Shares:
    """The shares that rows left out support.

    Args:
        before: Errors on those rows without any correction.
        after: The same errors, in the same order, with each candidate's share of the correction
            that a fit without the row makes.

    Returns:
        Among candidates that make no metric's mean error worse, the one with the largest mean
        gain; `NONE` where that is no more than one standard error of it.
    """
    metrics = np.array([m.metric for m in before])
    rows = np.unique([m.row.number for m in before], return_inverse=True)[1]
    old = _sizes(before)
    best, most = NONE, 0.0
    for shares, misses in after.items():
        gains = old - _sizes(misses)
        by_metric = [float(gains[metrics == name].mean()) for name in np.unique(metrics)]
        gain = float(np.mean(by_metric))
        if min(by_metric) >= -_SLACK and gain > max(most, _doubt(gains, rows)):
            best, most = shares, gain
    return best


def _sizes(misses: Sequence[Miss]) -> Array:
    """|predicted / measured - 1|."""
    return np.abs(np.expm1([m.error for m in misses]))


def _doubt(gains: Array, rows: NDArray[np.intp]) -> float:
    """Standard error of the mean gain. The metrics of one row share their error: it counts once."""
    by_row = np.bincount(rows, gains) / np.bincount(rows)
    return float(by_row.std(ddof=1)) / math.sqrt(len(by_row)) if len(by_row) > 1 else math.inf
