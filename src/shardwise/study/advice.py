"""What to deploy: for users who wait (online) and for work that nobody waits for (offline)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shardwise.evidence.record import Evidence
from shardwise.study.cost import NodeCost
from shardwise.study.grid import Grid
from shardwise.workload.workload import Slo

Use = Literal["online", "offline"]


@dataclass(frozen=True)
class Advice:
    """The cheapest full node for a use, and what it gives."""

    use: Use
    slo: Slo
    choice: NodeCost
    evidence: Evidence  #: of one copy
    certain: bool  #: whether the whole interval meets the SLO, not only the value

    @property
    def capacity_left(self) -> float:
        """Share of the node's throughput left when one GPU is lost."""
        return (self.choice.copies - 1) / self.choice.copies


@dataclass(frozen=True)
class NoAdvice:
    """Nothing studied meets the SLO; the nearest cell and the share by which it misses."""

    use: Use
    slo: Slo
    nearest: NodeCost
    missed: str
    excess: float  #: value / bound - 1


def _excess(evidence: Evidence, slo: Slo) -> tuple[float, str]:
    """The worst value / bound - 1 over an SLO, and its metric; at most 0 where it is met."""
    misses = [
        (evidence.metrics[name].value / bound - 1.0, name)
        for name, bound in slo.bounds().items()
        if name in evidence.metrics
    ]
    return max(misses, default=(0.0, ""))


def advise(use: Use, slo: Slo, costs: Iterable[NodeCost], grid: Grid) -> Advice | NoAdvice:
    """The full node with the cheapest output tokens among those that meet the SLO."""
    full: Sequence[NodeCost] = [c for c in costs if c.scenario == "full_node"]
    meets = [c for c in full if _excess(grid[c.tp_size, c.concurrency], slo)[0] <= 0]
    if not meets:
        nearest = min(full, key=lambda c: _excess(grid[c.tp_size, c.concurrency], slo))
        excess, missed = _excess(grid[nearest.tp_size, nearest.concurrency], slo)
        return NoAdvice(use, slo, nearest, missed, excess)
    best = min(meets, key=lambda c: c.cost.value)
    cell = grid[best.tp_size, best.concurrency]
    certain = all(
        cell.metrics[name].hi <= bound
        for name, bound in slo.bounds().items()
        if name in cell.metrics
    )
    return Advice(use, slo, best, cell, certain)
