from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.analysis.frontier import pareto, points
from shardwise.errors import InputError
from shardwise.evidence.record import Evidence

MakeEvidence = Callable[..., Evidence]

pairs = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=30)


def test_the_frontier_is_what_no_point_beats_on_both() -> None:
    # (2, 5) loses to (1, 5); (3, 4) loses to both
    assert pareto([(2, 5), (1, 5), (3, 4), (4, 9)]) == (1, 3)


def test_equal_points_both_stay() -> None:
    assert pareto([(1, 5), (1, 5)]) == (0, 1)


@given(pairs)
def test_every_point_is_kept_exactly_when_nothing_beats_it(
    given_pairs: list[tuple[int, int]],
) -> None:
    def beaten(p: tuple[int, int]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in given_pairs)

    expected = {i for i, p in enumerate(given_pairs) if not beaten(p)}
    assert set(pareto(given_pairs)) == expected


def test_a_node_holds_as_many_copies_as_fit(evidence: MakeEvidence) -> None:
    cells = [evidence(1, 16, 10.0), evidence(8, 16, 4.0), evidence(8, 64, 10.0)]
    one, eight, busy = points(cells, gpus=8)
    assert (one.copies, eight.copies) == (8, 1)
    # 8 copies * 16 * 101 / 10 s = 1292.8 tok/s, against 404 and 646.4 of one TP=8 copy
    assert one.throughput.value == pytest.approx(1292.8)
    # at 10 s the full node of TP=1 beats TP=8 at batch 64; TP=8 at batch 16 is faster than either
    assert (one.is_efficient, eight.is_efficient, busy.is_efficient) == (True, True, False)


def test_without_a_node_each_point_is_one_copy(evidence: MakeEvidence) -> None:
    (point,) = points([evidence(1, 16, 10.0)])
    assert point.copies == 1
    assert point.throughput.value == pytest.approx(161.6)


def test_what_needs_more_gpus_than_the_node_is_left_out(evidence: MakeEvidence) -> None:
    assert points([evidence(8, 16, 4.0)], gpus=4) == ()


def test_a_result_without_the_metric_is_left_out(evidence: MakeEvidence) -> None:
    assert points([evidence(8, 16, 4.0)], throughput="usd_per_million_output_tok") == ()


def test_a_node_without_gpus_is_refused(evidence: MakeEvidence) -> None:
    with pytest.raises(InputError, match="a node of 0 GPUs"):
        points([evidence(8, 16, 4.0)], gpus=0)
