"""Assignment of layers to pipeline stages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def stage_sizes(num_layers: int, pp_size: int) -> tuple[int, ...]:
    """Layers of each of `pp_size` stages.

    The remainder goes to the stages before the last, from the back, because the last stage also
    has the head (vLLM: `get_pp_indices` in distributed/utils.py).
    """
    each, rest = divmod(num_layers, pp_size)
    sizes = [each] * pp_size
    for i in range(2, rest + 2):
        sizes[-i] += 1
    return tuple(sizes)


def layers_by_stage(groups: Sequence[Sequence[int]], pp_size: int) -> tuple[tuple[int, ...], ...]:
    """Layers of each group in each stage: shape (stages, groups)."""
    sizes = stage_sizes(sum(len(layers) for layers in groups), pp_size)
    ends = list(accumulate(sizes))
    counts = [[0] * len(groups) for _ in sizes]
    for g, layers in enumerate(groups):
        for layer in layers:
            counts[bisect_right(ends, layer)][g] += 1
    return tuple(tuple(row) for row in counts)
