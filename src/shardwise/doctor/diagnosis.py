"""Turn a reading into verdicts: GPUs per TP size, their all-reduce, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.doctor.findings import Finding, findings
from shardwise.node.node import Node
from shardwise.node.placement import Placement, placements, tp_sizes
from shardwise.node.reading.read import Reading
from shardwise.perfmodel.node_all_reduce import ENGINES, AllReduce, choose
from shardwise.perfmodel.node_cost import Cost, CostFunction, measured_costs

#: A model of 80 layers with a hidden size of 8192 in 16 bits (Llama 3 70B): bytes of one token's
#: hidden state, and all-reduces of a step (two a layer).
TOKEN_BYTES: Final = 8192 * 2
ALL_REDUCES: Final = 2 * 80
MESSAGES: Final = (("1 sequence", 1), ("32 sequences", 32), ("prompt of 2,048", 2048))


class Verdict(msgspec.Struct, frozen=True):
    """One TP size: the groups of GPUs, best first, and each engine's all-reduce on the best."""

    tp_size: int
    groups: tuple[Placement, ...]
    all_reduces: tuple[AllReduce, ...]
    costs: tuple[tuple[Cost, ...], ...]  #: per entry of `all_reduces`
    larger: tuple[tuple[Cost, ...], ...]  #: of what takes messages above the engine kernel's limit

    @property
    def best(self) -> Placement:
        """The placement with the best links."""
        return self.groups[0]

    def seconds(self, engine: int, tokens: int) -> tuple[float, float] | None:
        """Return the minimum and maximum time of one all-reduce of `tokens` hidden states; None if
        unknown."""
        size, taken = tokens * TOKEN_BYTES, self.all_reduces[engine]
        over = taken.below_bytes is not None and size >= taken.below_bytes
        costs = self.larger[engine] if over else self.costs[engine]
        times = [cost.seconds(size) for cost in costs]
        return (min(times), max(times)) if times else None


class Diagnosis(msgspec.Struct, frozen=True):
    """Everything that `doctor` prints about a node."""

    reading: Reading
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]


def diagnose(
    reading: Reading, engines: Sequence[str] = ENGINES, cost: CostFunction = measured_costs
) -> Diagnosis:
    """Return verdicts for each TP size from 2, and findings. InputError for an unknown engine."""
    node = reading.node
    verdicts: tuple[Verdict, ...] = ()
    if node is not None and node.links:
        sizes = [size for size in tp_sizes(node) if size > 1]
        verdicts = tuple(_verdict(node, size, engines, cost) for size in sizes)
    return Diagnosis(reading, verdicts, findings(reading))


def _verdict(node: Node, size: int, engines: Sequence[str], cost: CostFunction) -> Verdict:
    groups = placements(node, size)
    taken = tuple(choose(engine, groups[0]) for engine in engines)
    beyond = tuple(replace(t, library="rccl" if node.vendor == "amd" else "nccl") for t in taken)
    return Verdict(
        size,
        groups,
        taken,
        tuple(cost(groups[0], t) for t in taken),
        tuple(cost(groups[0], t) for t in beyond),
    )
