"""Ways to split a machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.experiment.split import (
    Machine,
    Split,
    busy_ranks,
    devices_of,
    is_oversubscribed,
    splits,
)

TWO_CORES = Machine("cpu", (0, 1))


def test_two_cores_are_one_share_two_shares_one_wide_rank_and_two_copies() -> None:
    assert [s.label for s in splits(TWO_CORES, (1, 2))] == [
        "TP=1 on 1 core",
        "TP=2 on 2 cores",
        "TP=1 on 2 cores",
        "2 x TP=1 on 2 cores",
    ]


def test_eight_gpus_are_single_replicas_and_whole_nodes() -> None:
    node = Machine("cuda", tuple(range(8)), "h200")
    found = {(s.replicas, s.tp_size) for s in splits(node, (1, 2, 8))}
    assert found == {(1, 1), (1, 2), (1, 8), (8, 1), (4, 2)}


def test_more_ranks_than_gpus_is_refused_and_more_than_cores_is_said() -> None:
    with pytest.raises(InputError, match="TP=2 on 1 GPUs"):
        splits(Machine("cuda", (0,)), (1, 2))
    four = next(s for s in splits(TWO_CORES, (1, 4)) if s.tp_size == 4)
    assert is_oversubscribed(four, TWO_CORES)


def test_a_replica_without_a_request_leaves_its_ranks_idle() -> None:
    assert busy_ranks(Split(1, 2, 1), 1) == 1
    assert busy_ranks(Split(2, 4), 16) == 8


@given(st.integers(1, 64), st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=5))
def test_no_two_replicas_share_a_core_unless_it_is_said(cores: int, sizes: list[int]) -> None:
    machine = Machine("cpu", tuple(range(cores)))
    for split in splits(machine, sorted(set(sizes))):
        claimed = [core for replica in devices_of(split, machine) for core in replica]
        assert set(claimed) <= set(machine.devices)
        if not is_oversubscribed(split, machine):
            assert len(claimed) == len(set(claimed)) == split.cores
