"""Bytes of stored weights, computed by hand for each format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.architecture.formats import FORMATS, UNQUANTIZED, Format

SIZES = st.integers(1, 4096)

#: Bytes of 256 outputs x 512 inputs: weights, then scales.
BY_HAND = {
    "fp32": 4 * 256 * 512,
    "bf16": 2 * 256 * 512,
    "fp16": 2 * 256 * 512,
    "fp8": 256 * 512 + 4 * 256,  # a 32-bit scale per output
    "int8": 256 * 512 + 4 * 256,
    "mxfp8": 256 * 512 + 256 * 512 // 32,  # OCP MX: one 8-bit scale per 32 weights
    "mxfp4": 256 * 512 // 2 + 256 * 512 // 32,
    "nvfp4": 256 * 512 // 2 + 256 * 512 // 16,  # one fp8 scale per 16 weights
}


@pytest.mark.parametrize("name", BY_HAND)
def test_bytes_of_a_matrix_are_its_weights_and_scales(name: str) -> None:
    # nvfp4 also has one fp32 scale per tensor, which is below the tolerance
    assert float(FORMATS[name].bytes_of(256, 512)) == pytest.approx(BY_HAND[name], rel=1e-4)


def test_a_group_of_128_weights_shares_a_scale_and_a_zero_point() -> None:
    form = FORMATS["int4"]
    per_group = 128 * 0.5 + form.scale_bytes
    assert float(form.bytes_of(1, 1024)) == pytest.approx(8 * per_group)
    # a group that is begun has its scale
    begun = float(form.bytes_of(1, 1025)) - float(form.bytes_of(1, 1024))
    assert begun == pytest.approx(0.5 + form.scale_bytes)


def test_blocks_of_both_dimensions_are_rounded_up() -> None:
    # DeepSeek's fp8: a 32-bit scale per 128 x 128
    form = Format("fp8", 8, (128, 128), 4.0, "fp8")
    assert float(form.bytes_of(256, 256)) == 256 * 256 + 4 * 4
    assert float(form.bytes_of(257, 256)) == 257 * 256 + 4 * 6


@given(st.sampled_from(sorted(FORMATS)), SIZES, SIZES, SIZES)
def test_more_outputs_are_never_fewer_bytes(name: str, rows: int, more: int, cols: int) -> None:
    form = FORMATS[name]
    assert form.bytes_of(rows + more, cols) > form.bytes_of(rows, cols)


@given(st.sampled_from(sorted(FORMATS)), st.lists(SIZES, min_size=1, max_size=5), SIZES)
def test_sizes_broadcast(name: str, rows: list[int], cols: int) -> None:
    together = FORMATS[name].bytes_of(np.array(rows), cols)
    assert together.tolist() == [float(FORMATS[name].bytes_of(r, cols)) for r in rows]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_is_called_by_its_dtype_and_narrow_ones_are_quantized(name: str) -> None:
    form = FORMATS[name]
    assert form.dtype == name
    assert form.is_quantized == (name not in UNQUANTIZED)
    assert form.is_quantized == (form.bits < 16)
