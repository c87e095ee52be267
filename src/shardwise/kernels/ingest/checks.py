"""Checks before a table is believed: host launches, spikes, caches.

A finding says what was dropped or raised and why; `docs/kernels.md` lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from shardwise.kernels.ingest.rows import Rows
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array
from shardwise.kernels.roofline import Rates
from shardwise.kernels.store import Table

Key = tuple[str, str, str]

#: A table whose fastest calls take this many times those of another engine on the same GPU and
#: dtype was timed with the host's launches in it. Honest tables differ by up to 3 (TensorRT-LLM's
#: fp8 GEMMs quantise activations first); those found differ by 10 and more.
LAUNCH_RATIO: Final = 4.0
#: A first point this many times slower than the second, in most shapes, is not the kernel.
SPIKE_RATIO: Final = 1.5
#: Bytes no cache holds: three times the largest (128 MB, RTX PRO 6000).
UNCACHED_BYTES: Final = 0.4e9


@dataclass(frozen=True)
class Finding:
    """One table, or part of it, that is not used as measured."""

    operator: str
    key: Key
    points: int
    reason: str


def fastest(rows: Rows) -> float:
    """Seconds of the fastest calls: the first percentile."""
    return float(np.quantile(rows.seconds, 0.01))


def host_launches(operator: Operator, parts: Mapping[Key, Rows]) -> list[Finding]:
    """Tables that hold the host's launch: flat, and far above another engine's fastest calls."""
    launches = {key: fastest(rows) for key, rows in parts.items()}
    found = []
    for key, launch in launches.items():
        others = [
            other
            for (gpu, engine, variant), other in launches.items()
            if (gpu, variant) == (key[0], key[2]) and engine != key[1]
        ]
        if others and launch > LAUNCH_RATIO * min(others):
            reason = (
                f"holds the host's launch: fastest calls {launch * 1e6:.0f} us, "
                f"another engine's {min(others) * 1e6:.1f} us"
            )
            found.append(Finding(operator.name, key, len(parts[key]), reason))
    return found


def without_spike(operator: Operator, key: Key, table: Table) -> tuple[Table, list[Finding]]:
    """A table without its least work where that is slower than the next, in most shapes."""
    if len(table.axes) != 1 or len(table.axes[0]) < 3:
        return table, []
    first, second = table.log2_seconds[:, 0], table.log2_seconds[:, 1]
    jump = first - second
    jump = jump[~np.isnan(jump)]
    if not len(jump) or np.median(jump) < np.log2(SPIKE_RATIO):
        return table, []
    at = f"{operator.work[0]} {table.axes[0][0]:g}"
    reason = f"{at} is {2 ** np.median(jump):.1f} times slower than the next point"
    finding = Finding(operator.name, key, int((~np.isnan(first)).sum()), reason)
    kept = replace(
        table,
        axes=(table.axes[0][1:],),
        log2_seconds=np.ascontiguousarray(table.log2_seconds[:, 1:]),
    )
    return kept, [finding]


def memory_share(operator: Operator, table: Table, variant: str, rates: Rates) -> float:
    """Share of the datasheet's bandwidth that large memory-bound calls reach; 1 if there are none.

    Only for classes whose expected and strict rooflines agree, so that the bytes are known.
    """
    if operator.ideal is not operator.bound:
        return 1.0
    columns, grid = _columns(table)
    bound = operator.bound(rates, variant, columns, grid)
    faster = operator.bound(replace(rates, memory=rates.memory * 1.1), variant, columns, grid)
    large = (bound * rates.memory > UNCACHED_BYTES) & (faster < bound * 0.95)
    share = np.broadcast_to(bound, table.log2_seconds.shape) / np.exp2(table.log2_seconds)
    share = share[np.broadcast_to(large, share.shape) & ~np.isnan(share)]
    return float(min(1.0, share.max())) if len(share) else 1.0


def _columns(table: Table) -> tuple[Sequence[Array], Sequence[Array]]:
    """Shape and work columns that broadcast to (shapes, *grid)."""
    dims = len(table.axes)
    columns = table.shapes.T.reshape(table.shapes.shape[1], -1, *[1] * dims)
    grid = [
        axis.reshape(*[-1 if n == at else 1 for n in range(dims)])
        for at, axis in enumerate(table.axes)
    ]
    return list(columns), grid
