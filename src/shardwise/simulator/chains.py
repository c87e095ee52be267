"""Convert prompts' chains of blocks to segments; only shared parts are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from shardwise.simulator.trace import Shared


class Chains:
    """Segments identified by their predecessors, numbered in order of appearance."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, object], int] = {}
        self._end: list[int] = []
        self._of: list[list[int]] = []

    def add(self, labels: Sequence[object], ends: Sequence[int]) -> None:
        """Add the next request's prompt: label and end (in tokens) of each segment in order."""
        chain, parent = [], -1
        for label, end in zip(labels, ends, strict=True):
            number = self._known.setdefault((parent, label), len(self._end))
            if number == len(self._end):
                self._end.append(end)
            self._end[number] = max(self._end[number], end)
            chain.append(number)
            parent = number
        self._of.append(chain)

    def shared(self, order: Sequence[int]) -> Shared | None:
        """Return the segments of the requests in `order`; None if nothing is shared."""
        used = Counter(number for chain in self._of for number in chain)
        kept = {number for number, count in used.items() if count > 1}
        if not kept:
            return None
        place = {number: k for k, number in enumerate(sorted(kept))}
        chains = [[place[x] for x in self._of[i] if x in kept] for i in order]
        at = np.concatenate([[0], np.cumsum([len(chain) for chain in chains])])
        return Shared(
            at.astype(np.int64),
            np.array([x for chain in chains for x in chain], dtype=np.int64),
            np.array([self._end[number] for number in sorted(kept)], dtype=np.int64),
        )
