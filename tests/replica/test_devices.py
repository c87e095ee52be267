"""Which GPUs a process may use: those of the machine that its environment leaves."""

from __future__ import annotations

import pytest

from shardwise.replica.devices import visible

UUIDS = ("GPU-3a1f00", "GPU-3a9c00", "GPU-77aa00", "GPU-e01200")


@pytest.mark.parametrize(
    ("listed", "left"),
    [
        (None, {0, 1, 2, 3}),
        ("", set()),
        ("2,3", {2, 3}),
        (" 3 , 0 ", {0, 3}),
        ("GPU-77,GPU-e01200", {2, 3}),
        ("-1", set()),  # how PyTorch's users hide every GPU
        ("0,7,1", {0}),  # as CUDA: entries after an invalid one do not count
        ("NoDevFiles", set()),  # what Slurm sets for a job without GPUs
    ],
)
def test_gpus_that_the_environment_hides_are_not_used(listed: str | None, left: set[int]) -> None:
    assert visible(UUIDS, listed) == left


def test_gpus_without_a_uuid_are_named_by_index() -> None:
    assert visible(("", ""), "1") == {1}
    assert visible(("", ""), "GPU-3a") == set()
