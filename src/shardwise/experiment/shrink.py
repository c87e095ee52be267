"""The share of a correction that its calibration cells support, per metric.

A calibration changes all metrics at once, but one may already be right, or too noisy to be
corrected by a dozen cells. So each prediction is moved only by the share of the correction that
predicts held-out cells best, or not at all if the gain could be chance. Its interval comes from
the errors on those cells.
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
LEAST: Final = 3  #: minimum number of held-out cells; with fewer, a gain could be chance


class Trust(msgspec.Struct, frozen=True):
    """The applied share of one metric's correction, and the remaining error.

    `half_width` is that of an 80 % interval, in logs; infinite with too few cells.
    """

    share: float
    half_width: float = math.inf
    n: int = 0  #: held-out cells, one at a time or in folds


def trust(before: Sequence[float], after: Sequence[float]) -> Trust:
    """Estimate the share from held-out cells: log(predicted / measured) without and with the
    correction."""
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    share = _share(old, new) if len(old) >= LEAST else 0.0
    return Trust(share, half_width(_at(old, new, share)), len(old))


def _at(old: Values, new: Values, share: float) -> Values:
    return np.asarray((1.0 - share) * old + share * new)


def _share(old: Values, new: Values) -> float:
    """Return the share with the smallest mean error; 0 if its gain is at most one standard error
    of the mean gain."""
    means = [float(np.abs(_at(old, new, share)).mean()) for share in SHARES]
    best = float(SHARES[int(np.argmin(means))])
    gains = np.abs(old) - np.abs(_at(old, new, best))
    doubt = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return best if float(gains.mean()) > doubt else 0.0


def half_width(errors: Values) -> float:
    """Return the log half-width of an interval that contains a further cell with a probability of
    80 %.

    The k-th smallest error, k = ceil(0.8 (n + 1)): conformal prediction, which holds for any
    distribution (Vovk, Gammerman and Shafer 2005; Barber et al. 2021 for errors of folds).
    Infinite for fewer than four errors.
    """
    rank = math.ceil(COVERAGE * (len(errors) + 1))
    return float(np.sort(np.abs(errors))[rank - 1]) if rank <= len(errors) else math.inf


def shrunk(before: Evidence, after: Evidence, trusts: Mapping[str, Trust]) -> Evidence:
    """Return `after` with each metric moved back towards `before`; unknown metrics stay as
    before."""
    metrics = {
        name: _blend(before.metrics[name], after.metrics[name], trusts.get(name, Trust(0.0)))
        for name in after.metrics
        if name in before.metrics
    }
    return replace(after, metrics=metrics)


def _blend(old: Interval, new: Interval, known: Trust) -> Interval:
    value = old.value ** (1.0 - known.share) * new.value**known.share
    if not math.isfinite(known.half_width):  # same width as before, around the new value
        return Interval(value, old.lo * value / old.value, old.hi * value / old.value, old.n)
    factor = math.exp(known.half_width)
    return Interval(value, value / factor, value * factor, known.n)
