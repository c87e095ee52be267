"""Many layouts at once."""

from __future__ import annotations

import numpy as np

from shardwise.layout.arrays import Layouts
from shardwise.layout.deployment import Layout


def test_each_distinct_layout_is_worked_out_once() -> None:
    layouts = Layouts.of([Layout(1), Layout(8, 2), Layout(1), Layout(8, 2)])
    asked: list[Layout] = []

    def gpus(layout: Layout) -> float:
        asked.append(layout)
        return layout.replica_gpus

    np.testing.assert_array_equal(layouts.gather(gpus), [1, 16, 1, 16])
    assert sorted(asked) == [Layout(1), Layout(8, 2)]


def test_names_say_what_is_not_one() -> None:
    assert [Layout(4).name, Layout(2, 2).name, Layout(1, ep_size=8, attention_dp=8).name] == [
        "TP4",
        "TP2 x PP2",
        "DP8 x EP8",
    ]
    assert Layout(2, 2, replicas=2).gpus == 8
