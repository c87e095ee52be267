"""The table that speaks for an engine's kernel, where several do.

Products: some engines' tables hold the quantization of the activations and some do not (TensorRT-
LLM's fp8 products take 7 us more than others' whatever their size), and a step counts quantization
apart. So the fastest table of a GPU and dtype is taken at each size. Experts: the engine's own
table; where it has none, the fastest of the others', since what one engine has found to be fast the
others take over within a release or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from shardwise.kernels.provenance import Provenance, Times

ENGINES: Final = ("vllm", "sglang", "trtllm")
Kernel = Callable[[str], Times]  #: from an engine's name


def fastest(kernel: Kernel, engine: str) -> Times:
    """Times of `kernel` at each size, the fastest of all engines that were measured."""
    own = kernel(engine)
    others = [kernel(name) for name in ENGINES if name != engine]
    known = [t for t in others if _kind(t) <= Provenance.EXTRAPOLATED]
    if _kind(own) > Provenance.OTHER_ENGINE or not known:
        return own
    seconds = np.min([own.seconds, *(t.seconds for t in known)], axis=0)
    return Times(seconds, own.provenance, own.distance, own.source)


def own_or_fastest(kernel: Kernel, engine: str) -> Times:
    """Times of `kernel` for `engine`; where they are another engine's, the fastest."""
    own = kernel(engine)
    return own if _kind(own) != Provenance.OTHER_ENGINE else fastest(kernel, engine)


def _kind(times: Times) -> int:
    ranked = np.sort(times.provenance, axis=None)
    return int(ranked[(len(ranked) - 1) // 2])
