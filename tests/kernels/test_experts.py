"""Experts in a format without a table: the efficiency of a relative, within physical bounds."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import Provenance, experts
from shardwise.kernels.formats import slower_formats
from shardwise.kernels.roofline import rates_of

CATALOGUE = default_catalogue()
MI355X, H100 = CATALOGUE.gpu("mi355x"), CATALOGUE.gpu("h100")
TOKENS = 2.0 ** np.arange(16)
GPT_OSS = (2880, 2880, 128, 4)  # hidden size, expert width, experts, experts per token


@pytest.mark.parametrize("wider", ["fp8", "fp8_block", "bf16"])
def test_experts_of_four_bits_are_no_slower_than_measured_ones_of_more(wider: str) -> None:
    """MI355X's mxfp4 experts reach 0.19 of the fp4 rate. The same share of the fp8 rate would make
    mxfp4 weights with fp8 activations twice as slow as its bf16 experts."""
    four = experts(MI355X, "vllm", "w4a8_mxfp4_mxfp8", TOKENS, *GPT_OSS)
    more = experts(MI355X, "vllm", wider, TOKENS, *GPT_OSS)
    assert (four.seconds <= more.seconds).all()
    assert (np.diff(four.seconds) >= 0).all()
    assert (four.provenance >= Provenance.OTHER_DTYPE).all()


def test_a_measured_format_keeps_its_own_times() -> None:
    """Where the table says that fp4 is slower than bf16, it may be."""
    times = experts(MI355X, "aiter", "mxfp4", 32.0, 7168, 256, 256, 8)
    assert times.provenance == Provenance.MEASURED
    assert "bf16" not in times.source


def test_formats_that_are_unpacked_to_16_bits_have_no_upper_bound() -> None:
    """Unpacking takes longer than reading 16-bit weights once there are many rows."""
    assert slower_formats(rates_of(H100), "w4a16_mxfp4") == []
    assert slower_formats(rates_of(H100), "bf16") == []


def test_slower_formats_have_as_many_bytes_and_no_faster_matrix_units() -> None:
    assert set(slower_formats(rates_of(MI355X), "w4a8_mxfp4_mxfp8")) == {
        "fp8", "fp8_block", "int8", "sq", "bf16"
    }  # fmt: skip
    assert "nvfp4" not in slower_formats(rates_of(CATALOGUE.gpu("b200")), "fp8")
