from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from shardwise.analysis.grid import concurrencies, curve, index, tp_sizes
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence, Interval

MakeEvidence = Callable[..., Evidence]


def test_a_grid_is_sorted_by_tp_and_concurrency(evidence: MakeEvidence) -> None:
    grid = index([evidence(8, 16, 1.0), evidence(1, 128, 4.0), evidence(1, 16, 2.0)])
    assert list(grid) == [(1, 16), (1, 128), (8, 16)]
    assert tp_sizes(grid) == (1, 8)
    assert concurrencies(grid) == (16, 128)
    assert [(c, i.value) for c, i in curve(grid, 1, "e2e_latency_s")] == [(16, 2.0), (128, 4.0)]


def test_a_curve_leaves_out_cells_without_the_metric(evidence: MakeEvidence) -> None:
    assert curve(index([evidence(1, 16, 2.0)]), 1, "usd_per_million_output_tok") == ()


def test_no_results_are_refused() -> None:
    with pytest.raises(InputError, match="no results to study"):
        index([])


def test_two_results_for_one_cell_are_refused(evidence: MakeEvidence) -> None:
    with pytest.raises(InputError, match="two results for TP=1 at concurrency 16"):
        index([evidence(1, 16, 2.0), evidence(1, 16, 2.1)])


def test_predicted_and_measured_cells_do_not_share_a_grid(evidence: MakeEvidence) -> None:
    cells = [evidence(1, 16, 2.0), evidence(2, 16, 1.5, kind="measured")]
    with pytest.raises(InputError, match="kind: measured and predicted"):
        index(cells)


def test_other_lengths_are_another_family(evidence: MakeEvidence) -> None:
    with pytest.raises(InputError, match="osl: 101 and 201"):
        index([evidence(1, 16, 2.0), evidence(2, 16, 1.5, osl=201)])


def test_several_replicas_in_one_result_are_refused(evidence: MakeEvidence) -> None:
    item = evidence(1, 16, 2.0)
    with pytest.raises(InputError, match="2 replicas"):
        index([replace(item, deployment=item.deployment.with_layout(replicas=2))])


@pytest.mark.parametrize(
    "bad",
    [
        Interval(0.0, 0.0, 0.0),
        Interval(1.0, -1.0, 2.0),
        Interval(1.0, 1.5, 2.0),
        Interval(float("nan"), 1.0, 2.0),
        Interval(1.0, 1.0, float("inf")),
    ],
)
def test_an_interval_that_is_not_positive_and_around_its_value_is_refused(
    evidence: MakeEvidence, bad: Interval
) -> None:
    item = evidence(1, 16, 2.0)
    with pytest.raises(InputError, match="ttft_s at TP=1, concurrency 16"):
        index([replace(item, metrics={"ttft_s": bad})])
