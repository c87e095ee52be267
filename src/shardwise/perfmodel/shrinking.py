"""How much of a correction to keep, from errors on held-out rows.

A fit to a dozen rows also changes coefficients that the rows do not determine. Each offset is
therefore moved only by a share of the distance to the fit. There are two shares: one for
coefficients of the step time, one for time that affects TTFT much more than TPOT (outside steps,
and launches of prompts). The chosen shares predict held-out rows best and make no metric worse.
Both are 0 if the gain could be chance.
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

#: Coefficients of the time outside steps, and of launches, which only steps with prompts wait for.
OUTSIDE: Final = frozenset(
    {"request", "tokenize", "wait_steps", "ahead", "handle", "stream", "eager_kernel"}
)
_IS_OUTSIDE: Final = np.array([name in OUTSIDE for name in NAMES])
#: Factors on the pull of the prior in a fit to a user's rows. The rows are from one machine and
#: version, so they may move a coefficient further than as many public rows, which share errors.
#: Noisy rows need the firmer of the two.
HOLDS: Final = (0.09, 0.03)
_LEVELS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_SLACK: Final = 1e-9  #: rounding tolerance if a metric does not change


class Shares(msgspec.Struct, frozen=True):
    """Share of a correction that is kept: 0 is none, 1 is all; and how firm its fit's prior is."""

    steps: float
    outside: float
    hold: float = HOLDS[0]


NONE: Final = Shares(0.0, 0.0)
WHOLE: Final = Shares(1.0, 1.0)
CANDIDATES: Final = tuple(
    Shares(*kept) for kept in product(_LEVELS, _LEVELS, HOLDS) if kept[:2] != (0.0, 0.0)
)


def toward(start: Hierarchy, fitted: Hierarchy, shares: Shares) -> Hierarchy:
    """Move `start` towards `fitted` by `shares`. Offsets missing in `start` are zero."""
    kept = np.where(_IS_OUTSIDE, shares.outside, shares.steps)
    moved = {
        key: origin + kept * (end - origin)
        for key, end in fitted.offsets.items()
        for origin in (start.offsets.get(key, np.zeros(len(NAMES))),)
    }
    return Hierarchy({**start.offsets, **moved})


def supported(before: Sequence[Miss], after: Mapping[Shares, Sequence[Miss]]) -> Shares:
    """Choose the shares that held-out rows support.

    Args:
        before: Errors on held-out rows without any correction.
        after: The same errors, in the same order, for each candidate. The correction comes from a
            fit without the row.

    Returns:
        Among candidates that make no metric's mean error worse, the one with the largest mean
        gain; `NONE` if this gain is at most one standard error.
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
    """Standard error of the mean gain. Metrics of one row are correlated, so a row counts once."""
    by_row = np.bincount(rows, gains) / np.bincount(rows)
    return float(by_row.std(ddof=1)) / math.sqrt(len(by_row)) if len(by_row) > 1 else math.inf
