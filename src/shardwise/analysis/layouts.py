"""All layouts of a node: ranked by the planner, and predicted at each batch for a chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from shardwise.analysis.intervals import scaled
from shardwise.evidence.record import Evidence, Interval
from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout
from shardwise.perfmodel.estimate import Subject, sweep, widths_in
from shardwise.perfmodel.knowledge import WORDS
from shardwise.planner.candidates import Rejected
from shardwise.planner.operating_point import (
    WAVES,
    limited_deployments,
    limits_of,
    max_num_seqs,
    offered_in_waves,
)
from shardwise.planner.plan import Plan, explore
from shardwise.planner.question import Question
from shardwise.planner.rank import Candidate

#: Requests in flight per replica of the points in a chart.
BATCHES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
METRICS: Final = ("ttft_s", "tpot_s", "e2e_latency_s", "output_tok_s")


class LayoutCell(msgspec.Struct, frozen=True):
    """One replica of `layout` at `concurrency` requests in flight.

    Attributes:
        layout: The layout with the replicas that fill the node.
        metrics: By name, in SI, of one replica.
        kv_limited: Whether the KV cache has room for fewer sequences than are in flight; the rest
            wait.
    """

    layout: Layout
    concurrency: int
    metrics: Mapping[str, Interval]
    kv_limited: bool


class LayoutStudy(msgspec.Struct, frozen=True):
    """The planner's result for every layout, and each layout at each batch.

    Attributes:
        ranked: Meet the bounds and sustain the rate, best first, as ranked by `shardwise plan`.
        missing: Run and miss a bound, nearest first.
        rejected: Break a rule, do not fit in memory or cannot sustain the rate, with the reason.
        free: With a request rate, the highest throughput of each layout within the bounds; else
            `ranked`.
        cells: Every layout that fits in memory, at each batch.
        unseen: By the layout's name, what no calibration row has, as text.
        request_rate: Requests/s offered to the node; None: as much as it sustains.
        osl: Output tokens of a request.
    """

    ranked: tuple[Candidate, ...]
    missing: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    free: tuple[Candidate, ...]
    cells: tuple[LayoutCell, ...]
    unseen: Mapping[str, tuple[str, ...]]
    request_rate: float | None
    osl: int

    def most_carried(self, layout: str) -> Interval | None:
        """Return the requests/s that the node sustains in `layout` within the bounds; None if it
        misses them at any rate."""
        for c in self.free:
            if c.deployment.layout.name == layout:
                return scaled(c.node_output_tok_s, 1.0 / self.osl)
        return None

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Layouts that run, those with fewer GPUs per replica first."""
        return tuple(dict.fromkeys(cell.layout for cell in self.cells))


def layouts_of(made: Plan, batches: Sequence[int] = BATCHES) -> LayoutStudy:
    """Return every layout of a plan's question, which has one weight dtype.

    Args:
        made: The planner's result.
        batches: Requests in flight per replica.
    """
    question = made.question
    rate = question.demand.request_rate
    free = made
    if rate is not None:
        free = explore(replace(question, demand=replace(question.demand, request_rate=None)))
    fitting = [c.deployment.layout for c in (*free.ranked, *free.missing)]
    fitting = sorted(set(fitting), key=lambda x: (x.replica_gpus, x.pp_size, x.name))
    subject = question.subject(question.dtypes()[0])
    return LayoutStudy(
        made.ranked,
        made.missing,
        made.rejected,
        free.ranked,
        tuple(_cells(question, subject, fitting, batches)),
        unseen_of(subject, fitting),
        rate,
        question.demand.osl,
    )


def unseen_of(subject: Subject, layouts: Iterable[Layout]) -> dict[str, tuple[str, ...]]:
    """Return by layout name what no calibration row has, as text."""
    seen, asked = subject.calibrated.profile.knowledge, subject.asked
    return {x.name: tuple(WORDS[u] for u in seen.unseen(asked, x)) for x in layouts}


def cells_from(evidence: Iterable[Evidence], gpus: int) -> list[LayoutCell]:
    """Return evidence of one replica each as cells of a node of `gpus`."""
    return [
        LayoutCell(
            replace(e.deployment.layout, replicas=gpus // e.deployment.layout.replica_gpus),
            e.workload.concurrency,
            e.metrics,
            kv_limited=False,
        )
        for e in evidence
        if e.deployment.layout.replica_gpus <= gpus
    ]


def _cells(
    question: Question, subject: Subject, layouts: Sequence[Layout], batches: Sequence[int]
) -> list[LayoutCell]:
    """Predict all of `layouts` at all of `batches`, in one sweep."""
    pairs = [(layout, batch) for layout in layouts for batch in batches]
    if not pairs:
        return []
    concurrency = np.array([float(batch) for _, batch in pairs])
    arrays = Layouts.of(layout for layout, _ in pairs)
    seqs = max_num_seqs(np.ceil(concurrency / arrays.attention_dp), request_rate=False)
    deployments = limited_deployments(question, arrays, seqs)
    demand = question.demand
    # requests at a rate are not sent at once: there is no first burst
    waves = WAVES if demand.request_rate is None else np.inf
    offered = offered_in_waves(concurrency, demand, waves)
    served = sweep(subject, "closed_loop", deployments, offered)
    spread = {
        key: float(np.exp(width)) for key, width in widths_in(subject, layouts, METRICS).items()
    }
    values = {name: getattr(served, name).tolist() for name in METRICS}
    limited = served.kv_limited.tolist()
    return [
        LayoutCell(
            layout,
            batch,
            {name: _around(values[name][i], spread[layout, name]) for name in METRICS},
            limited[i],
        )
        for i, (layout, batch) in enumerate(pairs)
    ]


def _around(value: float, spread: float) -> Interval:
    return Interval(value, value / spread, value * spread)


def cell_deployment(question: Question, subject: Subject, layout: Layout, batch: int) -> Deployment:
    """Return the deployment whose replicas have `batch` requests in flight, with the planner's
    limits."""
    each = np.ceil(np.array([batch / layout.attention_dp]))
    seqs = int(max_num_seqs(each, request_rate=False)[0])
    limits: EngineLimits = limits_of(question, seqs, question.context)
    return Deployment(
        model=question.arch.id,
        gpu=question.node.gpu.id,
        layout=layout,
        limits=limits,
        dtypes=Dtypes(subject.weight_dtype, subject.kv_dtype),
        engine=question.engine,
        engine_version=question.engine_version,
        speculation=question.speculation,
    )
