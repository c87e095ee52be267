"""How much of a correction the cells that it was learned from support, metric by metric.

A calibration moves every metric at once, and one of them may be right already, or too noisy to be
corrected by a dozen cells. Each prediction is therefore moved from what it was by only that share
of the correction which predicts cells that were left out best, and not at all where the gain could
be chance. Its interval is that of the errors on those cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shardwise.evidence.record import Evidence, Interval

Values = NDArray[np.float64]

SHARES: Final = np.linspace(0.0, 1.0, 11)
COVERAGE: Final = 0.8
LEAST: Final = 3  #: cells left out; fewer show no gain that could not be chance


class Trust(msgspec.Struct, frozen=True):
    """Of one metric: the share of its correction that is applied, and how far off it then is.

    `half_width` is that of an 80 % interval, in logs; infinite where too few cells tell.
    """

    share: float
    half_width: float = math.inf
    n: int = 0  #: cells left out, one after the other or in folds


def trust(before: Sequence[float], after: Sequence[float]) -> Trust:
    """Learn from cells left out: log(predicted / measured) without and with the correction."""
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    share = _share(old, new) if len(old) >= LEAST else 0.0
    return Trust(share, half_width(_at(old, new, share)), len(old))


def _at(old: Values, new: Values, share: float) -> Values:
    return np.asarray((1.0 - share) * old + share * new)


def _share(old: Values, new: Values) -> float:
    """The share with the least mean error, 0 where it is better than none by no more than one
    standard error of the mean gain."""
    means = [float(np.abs(_at(old, new, share)).mean()) for share in SHARES]
    best = float(SHARES[int(np.argmin(means))])
    gains = np.abs(old) - np.abs(_at(old, new, best))
    doubt = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return best if float(gains.mean()) > doubt else 0.0


def half_width(errors: Values) -> float:
    """Half-width, in logs, of an interval that holds a further cell with a probability of 80 %.

    The k-th smallest error, k = ceil(0.8 (n + 1)): conformal prediction, which holds for any
    distribution (Vovk, Gammerman and Shafer 2005; Barber et al. 2021 for errors of folds).
    Infinite for fewer than four errors.
    """
    rank = math.ceil(COVERAGE * (len(errors) + 1))
    return float(np.sort(np.abs(errors))[rank - 1]) if rank <= len(errors) else math.inf


def shrunk(before: Evidence, after: Evidence, trusts: Mapping[str, Trust]) -> Evidence:
    """`after` with each metric moved back towards `before`; one that nothing is known of stays as
    it was before."""
    metrics = {
        name: _blend(before.metrics[name], after.metrics[name], trusts.get(name, Trust(0.0)))
        for name in after.metrics
        if name in before.metrics
    }
    return replace(after, metrics=metrics)


def _blend(old: Interval, new: Interval, known: Trust) -> Interval:
    value = old.value ** (1.0 - known.share) * new.value**known.share
    if not math.isfinite(known.half_width):  # as wide as it was, around where it is now
        return Interval(value, old.lo * value / old.value, old.hi * value / old.value, old.n)
    factor = math.exp(known.half_width)
    return Interval(value, value / factor, value * factor, known.n)
