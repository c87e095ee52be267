"""Throughput and latency of a node, and the Pareto-efficient points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.analysis.intervals import scaled
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval

Latency = Literal["e2e_latency_s", "tpot_s", "ttft_s"]


class Point(msgspec.Struct, frozen=True):
    """One configuration of a node: `copies` replicas of `tp_size`, each at `concurrency`."""

    tp_size: int
    concurrency: int
    copies: int
    latency: Interval
    throughput: Interval  #: tok/s of all copies
    evidence: Evidence
    is_efficient: bool = False


def points(
    evidence: Iterable[Evidence],
    gpus: int | None = None,
    latency: Latency = "e2e_latency_s",
    throughput: str = metrics.OUTPUT_THROUGHPUT.name,
) -> tuple[Point, ...]:
    """Return a point per result, with the Pareto-efficient ones marked.

    With `gpus`, the node has as many replicas as fit, each at the same batch; without, each point
    is one replica. Results that lack either metric or need more GPUs are skipped.
    """
    if gpus is not None and gpus < 1:
        raise InputError(f"a node of {gpus} GPUs", "allowed: 1 or more")
    found = [
        Point(
            tp_size=item.deployment.tp_size,
            concurrency=item.workload.concurrency,
            copies=copies,
            latency=item.metrics[latency],
            throughput=scaled(item.metrics[throughput], copies),
            evidence=item,
        )
        for item in evidence
        if latency in item.metrics and throughput in item.metrics
        for copies in [1 if gpus is None else gpus // item.deployment.gpus]
        if copies
    ]
    efficient = set(pareto([(p.latency.value, p.throughput.value) for p in found]))
    return tuple(replace(p, is_efficient=i in efficient) for i, p in enumerate(found))


def pareto(pairs: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return indices of the Pareto-efficient (latency, throughput) pairs, fastest first.

    A pair is dominated by one that is at least as good in both and better in one; equal pairs both
    stay.
    """
    order = sorted(range(len(pairs)), key=lambda i: (pairs[i][0], -pairs[i][1]))
    kept: list[int] = []
    for i in order:
        best = pairs[kept[-1]] if kept else None
        if best is None or pairs[i][1] > best[1] or pairs[i] == best:
            kept.append(i)
    return tuple(kept)
