"""Drop single points that are slow on one GPU only: disturbed runs or untuned kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from kernel_tables.checks import Finding, Key, common_points
from kernel_tables.rows import Rows
from shardwise.kernels.choice import gpu_distance
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates

#: GPUs within this distance have the same cores: H100 and H200; B200, B300, GB200 and GB300.
SIBLING: Final = 0.35
#: A point is dropped if its ratio to the roofline is this many times that of every sibling. 90 % of
#: the points of siblings agree within a factor of 1.3.
OUTLIER_RATIO: Final = 1.6


def without_outliers(
    operator: Operator, parts: Mapping[Key, Rows], rates: Mapping[str, Rates]
) -> tuple[dict[Key, Rows], list[Finding]]:
    """Return each table without outliers, and the number of points dropped.

    Collectives are unchanged, because GPUs with the same cores have different interconnects (eight
    GB300 are two nodes).
    """
    if "ranks" in operator.shape or operator.name.startswith("expert_"):
        return dict(parts), []
    efforts = {
        key: part.seconds
        / operator.ideal(rates[key[0]], key[2], list(part.shape.T), list(part.work.T))
        for key, part in parts.items()
    }
    kept: dict[Key, Rows] = {}
    findings = []
    for key, part in parts.items():
        least = np.full(len(part), np.inf)
        for other, theirs in parts.items():
            if _siblings(key, other, rates):
                here, there = common_points(part, theirs)
                ratio = efforts[key][here] / efforts[other][there]
                if len(ratio):
                    least[here] = np.minimum(least[here], ratio / np.median(ratio))
        bad = np.isfinite(least) & (least > OUTLIER_RATIO)
        kept[key] = part.take(~bad)
        if bad.any():
            findings.append(Finding(operator.name, key, int(bad.sum()), _reason(least[bad])))
    return kept, findings


def _reason(ratios: Array) -> str:
    return f"points {np.median(ratios):.1f} times slower than on every GPU of the same cores"


def _siblings(key: Key, other: Key, rates: Mapping[str, Rates]) -> bool:
    if key[0] == other[0] or key[1:] != other[1:]:
        return False
    return gpu_distance(rates[key[0]], rates[other[0]]) < SIBLING
