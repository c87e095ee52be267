"""Layers of pipeline stages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardwise.layout.stages import layers_by_stage, stage_sizes


def test_what_does_not_divide_goes_to_the_stages_before_the_last() -> None:
    assert stage_sizes(126, 4) == (31, 32, 32, 31)
    assert stage_sizes(61, 2) == (31, 30)
    assert stage_sizes(80, 8) == (10,) * 8


def test_layers_of_each_group_are_counted_by_position() -> None:
    # 3 dense layers, then 58 with experts: 61 = 31 + 30
    assert layers_by_stage([range(3), range(3, 61)], 2) == ((3, 28), (0, 30))


@given(layers=st.integers(1, 200), pp=st.integers(1, 16))
def test_every_layer_has_one_stage(layers: int, pp: int) -> None:
    sizes = stage_sizes(layers, min(pp, layers))
    assert sum(sizes) == layers
    assert max(sizes) - min(sizes) <= 1
