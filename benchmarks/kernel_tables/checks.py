"""Check tables for host launches, spikes and cached data.

A finding states what was dropped or doubtful, and why. `docs/kernels.md` lists all findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from kernel_tables.rows import Rows
from shardwise.kernels.formats import FORMATS
from shardwise.kernels.operator import Operator
from shardwise.kernels.provenance import Array, Places
from shardwise.kernels.roofline import Rates
from shardwise.kernels.store import Table

Key = tuple[str, str, str]

#: If a table's fastest calls take this many times as long as another engine's on the same GPU and
#: dtype, its times include launches by the host. Valid tables differ by up to 3 (TensorRT-LLM's fp8
#: GEMMs quantize activations first); the tables found differ by 10 or more.
LAUNCH_RATIO: Final = 4.0
#: Ratio and difference (seconds) of fastest calls above which a table is doubtful.
DOUBTFUL_RATIO: Final = 1.8
DOUBTFUL_SECONDS: Final = 20e-6
#: If the first point is this many times slower than the second in most shapes, it is dropped.
SPIKE_RATIO: Final = 1.5
#: If large calls of a table are this many times slower than another engine's, it measured a kernel
#: that the engine does not use for serving.
SLOWER_RATIO: Final = 2.5
ATTENTION_CLASSES: Final = ("attention", "mla", "sparse")
#: A table of fp8 or fp4 arithmetic is dropped if it is this many times slower than 16 bits.
WIDE_RATIO: Final = 1.3
#: A table is impossible if the median of large calls is below this share of their roofline time.
POSSIBLE_SHARE: Final = 0.9
#: A call is large if its roofline time is at least this many seconds.
LARGE_SECONDS: Final = 50e-6
#: Lower limit of the memory share. A kernel that reaches less is not limited by memory.
LEAST_SHARE: Final = 0.6
#: Bytes that exceed every cache: three times the largest (128 MB, RTX PRO 6000).
UNCACHED_BYTES: Final = 0.4e9


class Finding(msgspec.Struct, frozen=True):
    """A table, or part of one, that is dropped or doubtful."""

    operator: str
    key: Key
    points: int
    reason: str
    dropped: bool = True


def fastest(rows: Rows) -> float:
    """Return the seconds of the fastest calls: the first percentile."""
    return float(np.quantile(rows.seconds, 0.01))


def host_launches(operator: Operator, parts: Mapping[Key, Rows]) -> list[Finding]:
    """Find tables that include the host's launch: far above another engine's fastest calls."""
    launches = {key: fastest(rows) for key, rows in parts.items()}
    found = []
    for key, launch in launches.items():
        others = [
            other
            for (gpu, engine, variant), other in launches.items()
            if (gpu, variant) == (key[0], key[2]) and engine != key[1]
        ]
        least = min(others, default=launch)
        if launch > DOUBTFUL_RATIO * least and launch - least > DOUBTFUL_SECONDS:
            dropped = launch > LAUNCH_RATIO * least
            reason = (
                f"{'includes' if dropped else 'may include part of'} the host's launch: fastest "
                f"calls "
                f"{launch * 1e6:.0f} us, another engine {least * 1e6:.1f} us"
            )
            found.append(Finding(operator.name, key, len(parts[key]), reason, dropped))
    return found


def slower_kernels(
    operator: Operator, parts: Mapping[Key, Rows], rates: Mapping[str, Rates]
) -> list[Finding]:
    """Find tables whose large calls take several times as long as another engine's.

    In attention classes, the measured kernel is one that the engine does not use for serving
    (SGLang's latent prefill on Hopper was timed in its decode form), and the table is dropped. In
    other classes engines can differ this much (Triton's and FlashInfer's scans), and the table is
    kept.
    """
    found: list[Finding] = []
    for key, part in parts.items():
        gpu, _, variant = key
        large = _large(operator, part, rates[gpu], variant)
        worst = slowness(key, large, parts)
        if worst > SLOWER_RATIO:
            reason = f"large calls take {worst:.1f} times as long as another engine's"
            dropped = operator.name.startswith(ATTENTION_CLASSES)
            found.append(Finding(operator.name, key, len(part), reason, dropped))
    return found


def slower_than_wide(
    operator: Operator, parts: Mapping[Key, Rows], rates: Mapping[str, Rates]
) -> list[Finding]:
    """Find tables of fp8 or fp4 arithmetic that are slower than 16 bits: untuned kernels."""
    found = []
    for key, part in parts.items():
        gpu, engine, variant = key
        wide = parts.get((gpu, engine, "bf16"))
        if variant not in FORMATS or FORMATS[variant].rate == "bf16" or wide is None:
            continue
        ratio = _ratio(_large(operator, part, rates[gpu], variant), wide)
        if ratio > WIDE_RATIO:
            reason = f"large calls take {ratio:.1f} times as long as in bf16"
            found.append(Finding(operator.name, key, len(part), reason))
    return found


def impossible(
    operator: Operator, parts: Mapping[Key, Rows], rates: Mapping[str, Rates]
) -> list[Finding]:
    """Find tables whose large calls are faster than the datasheet allows."""
    found = []
    for key, part in parts.items():
        datasheet = rates[key[0]]
        bound = operator.bound(datasheet, key[2], list(part.shape.T), list(part.work.T))
        share = (part.seconds / bound)[bound * datasheet.memory > UNCACHED_BYTES]
        if len(share) >= 10 and np.median(share) < POSSIBLE_SHARE:
            reason = f"large calls take {np.median(share):.2f} of their roofline time"
            found.append(Finding(operator.name, key, len(part), reason))
    return found


def _large(operator: Operator, rows: Rows, rates: Rates, variant: str) -> Rows:
    bound = operator.bound(rates, variant, list(rows.shape.T), list(rows.work.T))
    return rows.take(np.broadcast_to(bound > LARGE_SECONDS, rows.seconds.shape))


def slowness(key: Key, rows: Rows, parts: Mapping[Key, Rows]) -> float:
    """Return the median ratio to the fastest other engine's times at common points, at least 1."""
    gpu, engine, variant = key
    ratios = [
        _ratio(rows, other)
        for (name, whose, kind), other in parts.items()
        if (name, kind) == (gpu, variant) and whose != engine
    ]
    return max([1.0, *ratios])


def _ratio(rows: Rows, other: Rows) -> float:
    """Return the median ratio of times at common points; 1 if there are fewer than ten."""
    left, right = common_points(rows, other)
    if len(left) < 10:
        return 1.0
    return float(np.median(rows.seconds[left] / other.seconds[right]))


def common_points(rows: Rows, other: Rows) -> tuple[Places, Places]:
    """Return the indices, in each of the two, of points with equal shape and work."""
    mine, theirs = (np.concatenate([part.shape, part.work], axis=1) for part in (rows, other))
    _, which = np.unique(np.concatenate([mine, theirs]), axis=0, return_inverse=True)
    which = which.reshape(-1)
    _, left, right = np.intersect1d(which[: len(mine)], which[len(mine) :], return_indices=True)
    return left, right


def without_spike(operator: Operator, key: Key, table: Table) -> tuple[Table, list[Finding]]:
    """Drop the point of least work if it is slower than the next one in most shapes."""
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
    """Return the share of the datasheet's bandwidth that large memory-bound calls reach.

    1 if there are none, and for classes whose expected and strict rooflines differ, because their
    bytes are unknown.
    """
    if operator.ideal is not operator.bound:
        return 1.0
    columns, grid = _columns(table)
    bound = operator.bound(rates, variant, columns, grid)
    faster = operator.bound(replace(rates, memory=rates.memory * 1.1), variant, columns, grid)
    large = (bound * rates.memory > UNCACHED_BYTES) & (faster < bound * 0.95)
    share = np.broadcast_to(bound, table.log2_seconds.shape) / np.exp2(table.log2_seconds)
    share = share[np.broadcast_to(large, share.shape) & ~np.isnan(share)]
    return float(np.clip(share.max(), LEAST_SHARE, 1.0)) if len(share) else 1.0


def _columns(table: Table) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return shape and work columns that broadcast to (shapes, *grid)."""
    dims = len(table.axes)
    columns = table.shapes.T.reshape(table.shapes.shape[1], -1, *[1] * dims)
    grid = [
        axis.reshape(*[-1 if n == at else 1 for n in range(dims)])
        for at, axis in enumerate(table.axes)
    ]
    return list(columns), grid
