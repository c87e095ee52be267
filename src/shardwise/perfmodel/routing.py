"""Experts whose weights a step reads, and those that the tables' calls read.

The tables' routing is synthetic (ai-dynamo/aiconfigurator, collector/helper.py). Each expert draws
its share of the tokens from a power law of exponent 1.2: between 1 and 0.8 times the tokens if
there are more assignments than experts, else between 0.01 and 2. Shares are rounded to whole
tokens, and experts without tokens get what is left. With one assignment for each expert, such a
call reads 59 of 128 experts. Uniform draws of 16 tokens reach 81, and those of 32 tokens 111, close
to the tables' 106. So time jumps between these sizes in the tables, but not in a server.

Times of calls that were left out of the tables, with one assignment for each expert, are 2 %
off if they are interpolated by the experts read here, and 14 % by those of uniform draws. On
an H100, vLLM's experts with random weights took as long as uniform draws do
(docs/step-by-kernel.md). Trained routers have favourites, so serving is put between the two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from shardwise.kernels.experts import touched
from shardwise.kernels.provenance import Array, Provenance, Times
from shardwise.perfmodel.grids import TOKENS
from shardwise.perfmodel.timed_alone import alone

#: Exponent of the tables' power law.
ALPHA: Final = 1.2
#: Where serving lies between the tables' routing (0) and uniform routing (1). Chosen among 0, 0.5,
#: 0.7 and 1 by the TPOT of left-out layouts, model families, GPUs and engines.
TOWARDS_UNIFORM: Final = 0.7
#: Quantiles at which the power law is evaluated.
_QUANTILES: Final = (np.arange(512) + 0.5) / 512
#: Sizes of the tables' calls. Times between them are interpolated.
_MEASURED: Final[Array] = 2.0 ** np.arange(21.0)


def read_in_tables(tokens: Array, experts: float, top_k: float) -> Array:
    """Return how many experts calls of the tables read, on all ranks together.

    Args:
        tokens: Tokens of each call.
        experts: Routed experts of a layer.
        top_k: Experts per token.
    """
    tokens = np.asarray(tokens, np.float64)[..., None]
    mean = tokens * top_k / experts
    low, high = np.where(mean > 1.0, 1.0, 0.01), np.where(mean > 1.0, 0.8 * tokens, 2.0)
    power = 1.0 - ALPHA
    shares = ((high**power - low**power) * _QUANTILES + low**power) ** (1.0 / power)
    wanted = np.rint(shares / shares.mean(-1, keepdims=True) * mean)
    # a token chooses an expert once, and what is left of rounding goes to the idle ones
    left = np.maximum(wanted - tokens, 0.0).mean(-1)
    left += np.maximum(mean[..., 0] - wanted.mean(-1), 0.0)
    idle = (np.minimum(wanted, tokens) == 0).mean(-1)
    return np.asarray(experts * (1.0 - idle + np.minimum(idle, left)))


@lru_cache(maxsize=64)
def _known(experts: float, top_k: float) -> Array:
    """Return the experts that times at `TOKENS` stand for: exact at the sizes of the tables' calls,
    a share of uniform draws between them, as times are interpolated."""
    number = np.array(experts)
    part = read_in_tables(_MEASURED, experts, top_k) / touched(number, _MEASURED * top_k)
    between = np.interp(np.log2(TOKENS), np.log2(_MEASURED), part)
    return np.asarray(between * touched(number, TOKENS * top_k))


def as_served(times: Times, compute_share: Array, experts: Array, top_k: Array) -> Array:
    """Return seconds of experts' calls that read as many experts as a step in serving does.

    Args:
        times: Of calls in a table, by layout and by `TOKENS`. Tuning results, whose routing is
            uniform, and times from datasheet rates are not changed.
        compute_share: Share of each time that is bound by arithmetic, which does not change.
        experts: Routed experts of a layer, one row and column for each layout.
        top_k: Experts per token, likewise.
    """
    if alone(times):
        return times.seconds
    uniform = touched(experts, TOKENS * top_k)
    pairs = zip(experts[:, 0], top_k[:, 0], strict=True)
    known = np.stack([_known(float(number), float(chosen)) for number, chosen in pairs])
    reading = np.maximum(times.seconds - _fixed(times.seconds, known, experts, top_k), 0.0)
    more = TOWARDS_UNIFORM * (uniform / known - 1.0) * reading * (1.0 - compute_share)
    more = np.where(times.provenance >= Provenance.ROOFLINE, 0.0, more)
    return np.asarray(np.maximum.accumulate(times.seconds + more, axis=-1))


def _fixed(seconds: Array, known: Array, experts: Array, top_k: Array) -> Array:
    """Return the seconds of a call that do not grow with the experts read: sorting, launches. They
    are what is left of one token's call, from the slope up to two assignments for each expert."""
    rows = np.arange(len(seconds))
    last = np.argmax(TOKENS * top_k >= 2.0 * experts, axis=-1)
    rise = known[rows, last] - known[:, 0]
    slope = (seconds[rows, last] - seconds[:, 0]) / np.maximum(rise, 1.0)
    return np.asarray(np.maximum(seconds[:, 0] - slope * known[:, 0], 0.0)[:, None])
