"""Kernels of an engine that has no table of its own on a GPU.

Where another engine's table must stand in, the fastest of the others' does: what one engine has
found to be fast, the others take over within a release or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from shardwise.kernels.provenance import Provenance, Times

ENGINES: Final = ("vllm", "sglang", "trtllm", "aiter")


def best(kernel: Callable[[str], Times], engine: str) -> Times:
    """Times of `kernel` for `engine`; where they are another engine's, the fastest at each size."""
    own = kernel(engine)
    if int(np.median(own.provenance)) != Provenance.OTHER_ENGINE:
        return own
    others = [kernel(name) for name in ENGINES if name != engine]
    known = [t for t in others if int(np.median(t.provenance)) <= Provenance.EXTRAPOLATED]
    if not known:
        return own
    seconds = np.min([t.seconds for t in known], axis=0)
    return Times(seconds, own.provenance, own.distance, own.source)
