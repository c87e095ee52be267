"""Choose the table for an engine's kernel, if several engines have one.

GEMMs: all tables include the quantization of activations. An engine fuses it with other kernels or
has faster ones than were timed (TensorRT-LLM's fp8 GEMMs take 7 us more than others' at any size),
so the fastest table of a GPU and dtype is used at each size. Experts: the engine's own table, else
the fastest of the others, since engines adopt fast kernels from each other within a release or two.
Decode attention: the fastest table of engines that run the same kernel, because noise only makes a
timing longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from shardwise.kernels.provenance import Provenance, Times

ENGINES: Final = ("vllm", "sglang", "trtllm")
Kernel = Callable[[str], Times]  #: from an engine's name


def fastest(kernel: Kernel, engine: str, engines: Sequence[str] = ENGINES) -> Times:
    """Return the times of `kernel` at each size, the fastest of those of `engines` that are
    measured."""
    own = kernel(engine)
    others = [kernel(name) for name in engines if name != engine]
    known = [t for t in others if _kind(t) <= Provenance.EXTRAPOLATED]
    if _kind(own) > Provenance.OTHER_ENGINE or not known:
        return own
    seconds = np.min([own.seconds, *(t.seconds for t in known)], axis=0)
    return Times(seconds, own.provenance, own.distance, own.source)


def own_or_fastest(kernel: Kernel, engine: str) -> Times:
    """Return the times of `kernel` for `engine`, else the fastest of other engines."""
    own = kernel(engine)
    return own if _kind(own) != Provenance.OTHER_ENGINE else fastest(kernel, engine)


def _kind(times: Times) -> int:
    ranked = np.sort(times.provenance, axis=None)
    return int(ranked[(len(ranked) - 1) // 2])
