"""A grid over layouts, and the changes from one layout to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from shardwise import metrics
from shardwise.analysis.intervals import as_percent_change, ratio, scaled
from shardwise.analysis.run import (
    Question,
    deployment_of,
    require_question,
    with_longest,
    workload_of,
)
from shardwise.analysis.transitions import Verdict, excludes_zero, verdict_of
from shardwise.engines.checks import layout_problems
from shardwise.engines.registry import get
from shardwise.errors import DoesNotFitError, InputError
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.layout.deployment import Layout
from shardwise.layout.rules import require_layout, undivided
from shardwise.perfmodel.estimate import Subject, predict
from shardwise.perfmodel.intervals import LAYOUT_RHO
from shardwise.perfmodel.memory import MemoryPlan, require_fit

#: Throughput is per GPU, because layouts may use different numbers of GPUs.
PER_GPU = metrics.OUTPUT_THROUGHPUT.name


class LayoutStep(msgspec.Struct, frozen=True):
    """The change of one metric from one layout to another at one batch; throughput per GPU."""

    metric: str
    concurrency: int
    from_layout: str
    to_layout: str
    change_pct: Interval
    source: Source

    @property
    def verdict(self) -> Verdict:
        """Whether the change is better or worse, by the metric's direction."""
        return verdict_of(self.metric, self.change_pct)

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return excludes_zero(self.change_pct)


class LeftOut(msgspec.Struct, frozen=True):
    """A requested layout that does not fit, with the reason."""

    layout: str
    reason: str


class LayoutGrid(msgspec.Struct, frozen=True):
    """Every layout that fits at every batch, and the steps between neighbours in the requested
    order.

    `cache_tokens` is by the layout's name: tokens of KV cache that a replica holds.
    """

    evidence: tuple[Evidence, ...]
    cache_tokens: dict[str, int]
    steps: tuple[LayoutStep, ...]
    left_out: tuple[LeftOut, ...]


def require_able_layouts(subject: Subject, question: Question, layouts: Iterable[Layout]) -> None:
    """Raise InputError for a layout that the model, the engine, the node or a batch does not
    allow."""
    model, engine = subject.arch, get(subject.engine)
    seen: set[str] = set()
    for layout in layouts:
        if layout.name in seen:
            raise InputError(f"layout {layout.name} is given twice", "allowed: once")
        seen.add(layout.name)
        require_layout(model, layout, subject.platform.loader)
        for problem in layout_problems(engine, layout, model):
            raise problem
        if layout.replica_gpus > question.gpus:
            raise InputError(
                f"{layout.name} on {question.gpus} GPUs",
                f"allowed: layouts of up to {question.gpus}",
                f"it takes {layout.replica_gpus}",
            )
        for batch in question.concurrencies:
            if batch % layout.attention_dp:
                raise undivided(batch, layout)


def layout_grid(subject: Subject, question: Question, layouts: Sequence[Layout]) -> LayoutGrid:
    """Predict `layouts` at the question's batches. Its TP sizes are not used.

    Raises InputError as `require_able_layouts`, and DoesNotFitError if none of them fits.
    """
    require_question(subject, question)
    for what, given in (("layouts", layouts), ("concurrencies", question.concurrencies)):
        if not given:
            raise InputError(f"0 {what}", "needed: at least 1", field=what)
    require_able_layouts(subject, question, layouts)
    fitting: list[tuple[Layout, MemoryPlan]] = []
    left_out: list[LeftOut] = []
    context = question.isl + question.osl
    for layout in layouts:
        deployment = deployment_of(subject, question, layout, 1)
        try:
            found = require_fit(subject.arch, subject.gpu, deployment, context)
        except DoesNotFitError as error:
            left_out.append(LeftOut(layout.name, str(error)))
        else:
            fitting.append((layout, found))
    if not fitting:
        raise DoesNotFitError(left_out[-1].reason)
    cells = [(layout, c) for layout, _ in fitting for c in question.concurrencies]
    evidence = predict(
        subject,
        with_longest(
            subject, question, [deployment_of(subject, question, *cell) for cell in cells]
        ),
        [workload_of(question, c) for _, c in cells],
    )
    return LayoutGrid(
        tuple(evidence),
        {layout.name: found.kv_capacity_tokens for layout, found in fitting},
        layout_steps(evidence),
        tuple(left_out),
    )


def layout_steps(
    evidence: Sequence[Evidence],
    names: Sequence[str] = (metrics.E2E.name, PER_GPU),
    rho: float = LAYOUT_RHO,
) -> tuple[LayoutStep, ...]:
    """Return steps between neighbouring layouts, in the order of `evidence`, per metric and batch.

    `rho` is the correlation of the errors of two cells, as in `transitions`.
    """
    cells = {(e.workload.concurrency, e.deployment.layout.name): e for e in evidence}
    order = list(dict.fromkeys(name for _, name in cells))
    batches = sorted({batch for batch, _ in cells})
    return tuple(
        LayoutStep(
            name,
            batch,
            before,
            after,
            as_percent_change(
                ratio(value(cells[batch, after], name), value(cells[batch, before], name), rho)
            ),
            cells[batch, after].source,
        )
        for name in names
        for batch in batches
        for before, after in pairwise(order)
        if (batch, before) in cells and (batch, after) in cells
    )


def value(evidence: Evidence, name: str) -> Interval:
    """Return a metric of a cell; throughput per GPU of its replica."""
    found = evidence.metrics[name]
    if name == PER_GPU:
        return scaled(found, 1.0 / evidence.deployment.layout.replica_gpus)
    return found
