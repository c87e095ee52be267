"""The end of a run whose requests are all queued at once: fewer and fewer sequences decode.

While requests are queued, each that ends is replaced. The last ones run together, and a step with
few sequences takes nearly as long as one with many, so that the run ends slowly. Lengths follow a
Weibull distribution with the load's mean and coefficient of variation.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from shardwise.perfmodel.loads import Load
from shardwise.perfmodel.loop import decode_steps
from shardwise.perfmodel.serving_steps import decode_step
from shardwise.perfmodel.step import Steps
from shardwise.perfmodel.work import Array

#: Parts of the longest length at whose middle the end of a run is evaluated.
PARTS: Final = 12
#: exp(-0.577): the longest of n exponential lengths is on average -log(0.561 / n) times the mean.
LONGEST: Final = 0.561
#: Coefficient of variation of lengths that are equal: what is left of them is uniform if they did
#: not begin together.
UNIFORM_CV: Final = 3.0**-0.5
LEAST_CV: Final = 0.02


def emptying_s(setting: Steps, load: Load, resident: Array) -> Array:
    """Return the seconds by which the end of a run is longer than the same tokens take in a full
    batch.

    Args:
        setting: Coefficients and kernels.
        load: `concurrency` requests are queued at once.
        resident: Sequences that run at the same time.
    """
    cv = np.broadcast_to(np.asarray(load.length_cv, np.float64), resident.shape)
    # those that begin together have all of their lengths left; later ones, what is left of them
    later = np.clip(load.concurrency / resident - 1.0, 0.0, 1.0)
    mean = 1.0 + later * ((1.0 + np.minimum(cv, 1.0) ** 2) / 2.0 - 1.0)
    spread = np.maximum(cv + later * UNIFORM_CV * (1.0 - np.minimum(cv, 1.0)), LEAST_CV)
    shape = spread**-1.086  # of Weibull (Justus et al., 1978), good to 4 % of the CV up to 1
    scale = mean / _gamma(1.0 + 1.0 / shape)
    longest = np.log(np.maximum(resident, 1.0) / LONGEST) ** (1.0 / shape)
    part = scale * longest * decode_steps(setting, load) / PARTS
    full = decode_step(setting, load, resident).total
    longer = np.zeros_like(full)
    for n in range(PARTS):
        share = np.exp(-((longest * (n + 0.5) / PARTS) ** shape))
        running = np.maximum(share * resident, 1.0)
        longer = longer + part * (
            decode_step(setting, load, running).total - full * running / resident
        )
    return np.asarray(longer)


_gamma = np.vectorize(math.gamma, otypes=[np.float64])
