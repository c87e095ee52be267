"""Which layouts nodes take, and in how many copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.layout.deployment import Layout
from shardwise.layout.nodes import crossing_hops, nodes_of, replicas_on, straddles


def test_a_replica_lies_within_a_node_or_takes_whole_ones() -> None:
    assert replicas_on(Layout(4), nodes=2, gpus_per_node=8) == 4
    assert replicas_on(Layout(3), nodes=2, gpus_per_node=8) == 4  # two in each, two GPUs idle
    assert replicas_on(Layout(8, 2), nodes=4, gpus_per_node=8) == 2
    assert nodes_of(Layout(8, 4), 8) == 4


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (Layout(16), "TP=16 over nodes of 8 GPUs; allowed: TP within a node"),
        (Layout(4, 3), "12 GPUs a replica are not whole nodes of 8"),
        (Layout(3, 8), "a stage of 3 GPUs straddles nodes of 8"),
        (Layout(8, 2), ""),
        (Layout(4, 4), ""),
        (Layout(1, attention_dp=16, ep_size=16), ""),
    ],
)
def test_what_straddles_nodes_is_named(layout: Layout, says: str) -> None:
    assert straddles(layout, 8) == says


def test_stages_cross_once_for_each_further_node() -> None:
    assert crossing_hops(Layout(8, 2), 8) == 1
    assert crossing_hops(Layout(4, 4), 8) == 1  # two stages a node: hops 1 and 3 stay within
    assert crossing_hops(Layout(2, 4), 8) == 0
    assert crossing_hops(Layout(1, attention_dp=16, ep_size=16), 8) == 0


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 8), st.integers(1, 8))
def test_replicas_never_take_more_gpus_than_there_are(
    tp: int, pp: int, nodes: int, size: int
) -> None:
    layout = Layout(tp, pp)
    if not straddles(layout, size):
        assert replicas_on(layout, nodes, size) * layout.replica_gpus <= nodes * size
