"""What a lost GPU costs a node, and predictions beside measurements."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.grid import Grid
from shardwise.analysis.measured_comparison import beside, mean_absolute_error_pct
from shardwise.errors import InputError
from shardwise.layout.deployment import Layout
from shardwise.layout.speculation import Speculation
from shardwise.reports.node_tables import beside_table, redundancy_table
from shardwise.reports.table import Table


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_a_lost_gpu_stops_its_replica_and_no_other(grid: Grid) -> None:
    # seven GPUs: 7 x TP1; 3 x TP2 with one idle; TP8 does not fit
    rows = texts(redundancy_table(node_costs(grid, Node(7), ["full_node"])))
    # TP=1 at 16: 7 x 161.6 tok/s, six of seven left; TP=2: 3 x 248.6 tok/s, two of three left
    assert rows[0] == ["16", "1", "7", "0", "1,131", "970", "86"]
    assert rows[1] == ["16", "2", "3", "1", "746", "497", "67"]


def test_one_replica_over_the_node_leaves_nothing(grid: Grid) -> None:
    rows = texts(redundancy_table(node_costs(grid, Node(8), ["full_node"])))
    assert rows[2][1:3] == ["8", "1"]
    assert rows[2][-2:] == ["0", "0"]


def test_a_table_of_costs_without_full_nodes_is_refused(grid: Grid) -> None:
    with pytest.raises(InputError, match="no full nodes to show"):
        redundancy_table(node_costs(grid, Node(8), ["one_copy"]))


def test_each_measured_value_has_its_error_and_whether_the_interval_holds_it(
    grid: Grid, measured: Grid
) -> None:
    pairs = beside(grid.values(), measured.values())
    table = beside_table(pairs)
    # measured latencies are 5 % longer: 1 / 1.05 - 1 = -4.8 %, within the 10 % of the intervals
    first = texts(table)[0]
    assert first == ["E2E latency", "1", "16", "s", "10.0", "10.5", "40", "-4.8", "✓ inside"]
    assert "30 of 30 measured values are in the predicted 80 % interval" in table.notes
    assert "mean absolute error, E2E latency: 4.8 % (n=6)" in table.notes
    assert [len(section) for section in table.sections] == [6] * 5  # one a metric


def test_a_value_beyond_the_bound_is_outside(grid: Grid, measured: Grid) -> None:
    cell = measured[2, 16]
    slow = {
        name: replace(m, value=m.value * 1.2, lo=m.lo * 1.2, hi=m.hi * 1.2)
        for name, m in cell.metrics.items()
    }
    pairs = beside(grid.values(), [replace(cell, metrics=slow)])
    latency = next(p for p in pairs if p.metric == "e2e_latency_s")
    assert not latency.is_covered
    assert latency.error_pct == pytest.approx(100 * (1 / (1.05 * 1.2) - 1))


@pytest.mark.parametrize("other", ["layout", "speculation", "batch", "gpu"])
def test_another_deployment_or_load_is_not_laid_beside(
    grid: Grid, measured: Grid, other: str
) -> None:
    cell = measured[2, 16]
    d = cell.deployment
    changed = {
        "layout": replace(cell, deployment=replace(d, layout=Layout(2, attention_dp=4, ep_size=8))),
        "speculation": replace(
            cell, deployment=replace(d, speculation=Speculation.parse("mtp:2", 0.7))
        ),
        "batch": replace(cell, workload=replace(cell.workload, concurrency=17)),
        "gpu": replace(cell, deployment=replace(d, gpu="h200")),
    }[other]
    assert beside(grid.values(), [cell])
    assert beside(grid.values(), [changed]) == ()


def test_a_metric_that_only_one_source_has_is_left_out(grid: Grid, measured: Grid) -> None:
    cell = measured[2, 16]
    only = {"ttft_s": cell.metrics["ttft_s"], "itl_s": cell.metrics["tpot_s"]}
    assert [p.metric for p in beside(grid.values(), [replace(cell, metrics=only)])] == ["ttft_s"]
    assert mean_absolute_error_pct([]) != mean_absolute_error_pct([])  # NaN
