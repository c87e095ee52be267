from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.analysis.cost import Node, NodeCost, Relative, node_costs
from shardwise.analysis.grid import Grid, index
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence

MakeEvidence = Callable[..., Evidence]


def grid_of(evidence: MakeEvidence, tp1: float = 10.0, tp8: float = 4.0) -> Grid:
    return index([evidence(1, 16, tp1), evidence(1, 2, 2.0), evidence(8, 16, tp8)])


def relative(cost: NodeCost) -> Relative:
    assert cost.relative is not None
    return cost.relative


def by_tp(costs: Iterable[NodeCost], concurrency: int = 16) -> dict[int, NodeCost]:
    return {c.tp_size: c for c in costs if c.concurrency == concurrency}


def test_one_copy_pays_for_the_idle_gpus(evidence: MakeEvidence) -> None:
    costs = by_tp(node_costs(grid_of(evidence), Node(8, 3.0), ["one_copy"]))
    # TP=1: 16 * 101 / 10 = 161.6 tok/s; 8 * 3 USD/h / (161.6 * 3600) * 1e6 = 41.254 USD/Mtok
    assert costs[1].cost.value == pytest.approx(41.254, abs=1e-3)
    assert (costs[1].copies, costs[1].gpus, costs[1].cost_metric) == (
        1,
        8,
        "usd_per_million_output_tok",
    )
    # TP=8: 404 tok/s, 2.5 times as much for the same 8 GPUs
    assert costs[8].cost.value == pytest.approx(41.254 / 2.5, abs=1e-3)
    assert relative(costs[1]).cost.value == pytest.approx(2.5)


def test_a_full_node_of_small_copies_has_the_studys_figures(evidence: MakeEvidence) -> None:
    # latency 2.5x -> throughput 8 / 2.5 = 3.2x and cost 1 / 3.2 = 31.25 %, the study's Figure 9
    one = by_tp(node_costs(grid_of(evidence), Node(8, 3.0), ["full_node"]))[1]
    assert one.copies == 8
    assert relative(one).latency.value == pytest.approx(2.5)
    assert relative(one).throughput.value == pytest.approx(3.2)
    assert relative(one).cost.value == pytest.approx(0.3125)
    assert relative(one).to_tp == 8


def test_the_same_load_is_shared_by_the_copies(evidence: MakeEvidence) -> None:
    # 16 requests over 8 copies: batch 2 each, 2 s; node 8 * 2 * 101 / 2 = 808 tok/s
    one = by_tp(node_costs(grid_of(evidence), Node(8, 3.0), ["same_load"]))[1]
    assert (one.copies, one.batch_per_copy) == (8, 2.0)
    assert one.output_tok_s.value == pytest.approx(808.0)
    assert relative(one).throughput.value == pytest.approx(2.0)  # TP=8: 404 tok/s


def test_a_batch_between_those_studied_is_read_on_a_log_log_line(evidence: MakeEvidence) -> None:
    # 32 over 8 copies: batch 4, of 2 (101 tok/s, 2 s) and 8 (202 tok/s, 4 s): halfway in log
    cells = [evidence(1, 2, 2.0), evidence(1, 8, 4.0), evidence(8, 32, 4.0)]
    one = by_tp(node_costs(index(cells), Node(8), ["same_load"]), 32)[1]
    assert one.output_tok_s.value == pytest.approx(8 * (101 * 202) ** 0.5)
    assert one.e2e_latency_s.value == pytest.approx((2.0 * 4.0) ** 0.5)


def test_a_load_outside_the_batches_studied_is_absent(evidence: MakeEvidence) -> None:
    # 2 requests over 8 copies of TP=1: two copies at batch 1, which was not studied
    costs = node_costs(grid_of(evidence), Node(8), ["same_load"])
    assert [c.tp_size for c in costs if c.concurrency == 2] == []


def test_fewer_requests_than_copies_leave_copies_idle(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 1, 2.0), evidence(1, 2, 2.5), evidence(8, 2, 1.0)])
    one = by_tp(node_costs(grid, Node(8), ["same_load"]), 2)[1]
    assert (one.copies, one.batch_per_copy) == (2, 1.0)
    assert one.output_tok_s.value == pytest.approx(2 * 101 / 2.0)


def test_without_a_price_the_cost_is_gpu_hours(evidence: MakeEvidence) -> None:
    cost = by_tp(node_costs(grid_of(evidence), Node(8), ["one_copy"]))[8]
    # 8 GPUs / (404 tok/s * 3600) * 1e6 = 5.5006 GPU-hours
    assert cost.cost.value == pytest.approx(5.5006, abs=1e-4)
    assert cost.cost_metric == "gpu_hours_per_million_output_tok"


def test_a_tp_larger_than_the_node_is_absent_and_not_the_reference(evidence: MakeEvidence) -> None:
    grid = index([evidence(1, 16, 10.0), evidence(2, 16, 6.0), evidence(8, 16, 4.0)])
    costs = by_tp(node_costs(grid, Node(4), ["full_node"]))
    assert set(costs) == {1, 2}
    assert relative(costs[1]).to_tp == 2


def test_gpus_left_over_are_paid_for(evidence: MakeEvidence) -> None:
    # 4-GPU copies on 6 GPUs: one copy, six paid
    cost = by_tp(node_costs(index([evidence(4, 16, 4.0)]), Node(6), ["full_node"]))[4]
    assert (cost.copies, cost.gpus) == (1, 6)
    assert cost.cost.value == pytest.approx(6 / (404 * 3600) * 1e6)


def test_where_the_largest_tp_was_not_run_nothing_is_relative_to_it(evidence: MakeEvidence) -> None:
    (cost,) = (
        c for c in node_costs(grid_of(evidence), Node(8), ["one_copy"]) if c.concurrency == 2
    )
    assert cost.relative is None


def test_high_throughput_is_the_low_end_of_cost(evidence: MakeEvidence) -> None:
    cost = by_tp(node_costs(grid_of(evidence), Node(8), ["one_copy"]))[8]
    # throughput is known to x/÷ 1.1, and so is the cost
    assert cost.cost.lo == pytest.approx(cost.cost.value / 1.1)
    assert cost.cost.hi == pytest.approx(cost.cost.value * 1.1)


@pytest.mark.parametrize("price", [0.0, -1.0, float("inf"), float("nan")])
def test_a_price_that_is_not_above_0_is_refused(price: float) -> None:
    with pytest.raises(InputError, match="USD per GPU-hour"):
        Node(8, price)


def test_a_node_without_gpus_is_refused() -> None:
    with pytest.raises(InputError, match="a node of 0 GPUs"):
        Node(0)


@given(st.floats(0.1, 100), st.floats(0.5, 50), st.floats(1.0, 10), st.floats(1.0, 10))
def test_relative_cost_does_not_depend_on_price_or_scale(
    evidence: MakeEvidence, price: float, scale: float, tp1: float, tp8: float
) -> None:
    plain = node_costs(grid_of(evidence, tp1, tp8), Node(8))
    cells = [
        evidence(1, 16, tp1 * scale),
        evidence(1, 2, 2.0 * scale),
        evidence(8, 16, tp8 * scale),
    ]
    other = node_costs(index(cells), Node(8, price))
    assert len(plain) == len(other)
    for a, b in zip(plain, other, strict=True):
        if a.relative is None:
            assert b.relative is None
        else:
            assert a.relative.cost.value == pytest.approx(relative(b).cost.value)
            assert a.relative.throughput.value == pytest.approx(relative(b).throughput.value)
