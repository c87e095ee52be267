"""Cost of a million output tokens on a node, and relative to the largest TP (the study's Figure 9).

    cost = GPUs paid for x USD per GPU-hour / (output tokens per second x 3600) x 1e6

All GPUs of the node are paid for, used or not. Three ways to use them:

- `one_copy`: a single replica, the node's other GPUs idle.
- `full_node`: gpus // tp_size replicas, each at the same batch, so a smaller TP also carries
  more requests at once. This is the study's 31 % of the cost, 3.21x the throughput, 2.5x the
  latency.
- `same_load`: the same replicas sharing one fixed number of requests in flight on the node.

Replicas are taken as independent and evenly loaded: no balancer cost, no shared bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, get_args

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.analysis.grid import Grid, concurrencies, curve, tp_sizes
from shardwise.analysis.intervals import ratio, reciprocal, scaled
from shardwise.errors import InputError
from shardwise.evidence.record import Interval

Scenario = Literal["one_copy", "full_node", "same_load"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


class Node(msgspec.Struct, frozen=True):
    """The paid node: `gpus` GPUs at `usd_per_gpu_hour`, None if no price is known."""

    gpus: int
    usd_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise InputError(f"a node of {self.gpus} GPUs", "allowed: 1 or more")
        price = self.usd_per_gpu_hour
        if price is not None and not 0 < price < math.inf:
            raise InputError(f"price is {price:g} USD per GPU-hour", "allowed: above 0")


class Relative(msgspec.Struct, frozen=True):
    """Ratios of a node to the same node at the largest TP; 1 is equal."""

    to_tp: int
    cost: Interval
    throughput: Interval
    latency: Interval


class NodeCost(msgspec.Struct, frozen=True):
    """A node of `gpus` GPUs running `copies` replicas of `tp_size`.

    `concurrency` is per replica, or for the node in the scenario `same_load`; `batch_per_copy` is
    always per replica. `cost` is per million output tokens in the unit of `cost_metric`.
    """

    scenario: Scenario
    tp_size: int
    concurrency: int
    copies: int
    batch_per_copy: float
    gpus: int
    output_tok_s: Interval  #: of the node
    e2e_latency_s: Interval
    cost: Interval
    cost_metric: str
    relative: Relative | None = None  #: None where the largest TP has no such cell


def node_costs(
    grid: Grid,
    node: Node,
    scenarios: Iterable[Scenario] = SCENARIOS,
    rho: float = 0.0,
) -> tuple[NodeCost, ...]:
    """Return the cost of every TP and concurrency in each scenario.

    Without a price the cost is in GPU-hours. A TP that needs more GPUs than the node has, or a
    load whose batch per replica is outside the studied batches, is omitted. `rho` is the
    correlation of the relative errors of two TPs (see `analysis.intervals`).
    """
    return tuple(
        cost
        for scenario in scenarios
        for concurrency in concurrencies(grid)
        for cost in _row(grid, node, scenario, concurrency, rho)
    )


def _row(
    grid: Grid, node: Node, scenario: Scenario, concurrency: int, rho: float
) -> list[NodeCost]:
    """Return all TPs of one scenario and concurrency, relative to the largest that fits on the
    node."""
    sizes = [tp for tp in tp_sizes(grid) if node.gpus >= tp * _pp_size(grid)]
    found = [_cost(grid, node, scenario, tp, concurrency) for tp in sizes]
    costs = [cost for cost in found if cost is not None]
    if not costs or costs[-1].tp_size != sizes[-1]:
        return costs
    return [replace(cost, relative=_relative(cost, costs[-1], rho)) for cost in costs]


def _cost(
    grid: Grid, node: Node, scenario: Scenario, tp_size: int, concurrency: int
) -> NodeCost | None:
    copies = 1 if scenario == "one_copy" else node.gpus // (tp_size * _pp_size(grid))
    if scenario == "same_load":
        copies = min(copies, concurrency)  # a replica without requests is idle but paid for
    batch = concurrency / copies if scenario == "same_load" else float(concurrency)
    per_copy = _at(grid, tp_size, metrics.OUTPUT_THROUGHPUT.name, batch)
    latency = _at(grid, tp_size, metrics.E2E.name, batch)
    if per_copy is None or latency is None:
        return None
    throughput = scaled(per_copy, copies)
    price = 1.0 if node.usd_per_gpu_hour is None else node.usd_per_gpu_hour
    per_token = metrics.usd_per_million_tok(node.gpus * price, 1.0)
    return NodeCost(
        scenario=scenario,
        tp_size=tp_size,
        concurrency=concurrency,
        copies=copies,
        batch_per_copy=batch,
        gpus=node.gpus,
        output_tok_s=throughput,
        e2e_latency_s=latency,
        cost=scaled(reciprocal(throughput), per_token),
        cost_metric=(metrics.GPU_HOURS if node.usd_per_gpu_hour is None else metrics.COST).name,
    )


def _pp_size(grid: Grid) -> int:
    return next(iter(grid.values())).deployment.pp_size  # of one family, so the same everywhere


def _relative(cost: NodeCost, largest: NodeCost, rho: float) -> Relative:
    if cost is largest:
        one = Interval(1.0, 1.0, 1.0, cost.cost.n)
        return Relative(largest.tp_size, one, one, one)
    return Relative(
        to_tp=largest.tp_size,
        cost=ratio(cost.cost, largest.cost, rho),
        throughput=ratio(cost.output_tok_s, largest.output_tok_s, rho),
        latency=ratio(cost.e2e_latency_s, largest.e2e_latency_s, rho),
    )


def _at(grid: Grid, tp_size: int, metric: str, batch: float) -> Interval | None:
    """Return `metric` at `batch`, interpolated log-log between the studied batches; None
    outside."""
    points = curve(grid, tp_size, metric)
    for at, value in points:
        if at == batch:
            return value
    for (low, a), (high, b) in pairwise(points):
        if low < batch < high:
            share = math.log(batch / low) / math.log(high / low)
            return Interval(
                value=a.value * (b.value / a.value) ** share,
                lo=a.lo * (b.lo / a.lo) ** share,
                hi=a.hi * (b.hi / a.hi) ** share,
                n=min(a.n, b.n),
            )
    return None
