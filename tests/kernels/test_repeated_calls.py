"""Calls and surfaces that are kept give what computing them again would."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import gemm, store
from shardwise.kernels.choice import Choice
from shardwise.kernels.evaluate import KEPT_SIZES, evaluate
from shardwise.kernels.gemm import GEMM
from shardwise.kernels.provenance import Provenance
from shardwise.kernels.roofline import rates_of
from shardwise.kernels.transfer import surface_of

H200: Final = default_catalogue().gpu("h200")
sizes = st.lists(st.integers(1, 20_000), min_size=1, max_size=20)


@given(sizes, st.integers(64, 16_384), st.integers(64, 16_384))
def test_a_kept_call_is_what_a_call_too_large_to_keep_gives(m: list[int], n: int, k: int) -> None:
    tokens = np.array(m, np.float64)
    kept = gemm(H200, "vllm", "fp8", tokens, n, k)
    large = gemm(H200, "vllm", "fp8", np.resize(tokens, KEPT_SIZES + 1), n, k)
    assert (kept.seconds == large.seconds[: len(m)]).all()
    assert (kept.provenance == large.provenance[: len(m)]).all()
    assert (kept.distance == large.distance[: len(m)]).all()


def test_a_kept_time_cannot_be_overwritten() -> None:
    times = gemm(H200, "vllm", "fp8", [1.0, 64.0], 8192, 8192)
    with pytest.raises(ValueError, match="read-only"):
        times.seconds[0] = 0.0


def test_sizes_that_change_after_a_call_are_another_call() -> None:
    tokens = np.array([1.0, 4096.0])
    before = gemm(H200, "vllm", "fp8", tokens, 8192, 8192).seconds[0]
    tokens[0] = 4096.0
    after = gemm(H200, "vllm", "fp8", tokens, 8192, 8192)
    assert after.seconds[0] == after.seconds[1] > before


def test_another_engines_time_is_its_own_under_another_provenance() -> None:
    rates = rates_of(H200)
    entry = next(
        e
        for e in store.index().entries
        if (e.operator, e.gpu, e.engine) == ("gemm", "h200", "vllm")
    )
    shape = tuple(store.table(entry).shapes[0].tolist())
    own, other = (
        surface_of(
            GEMM,
            Choice(entry, provenance, octaves),
            store.table(entry),
            (rates, entry.variant),
            shape,
            store.index().rates,
        )
        for provenance, octaves in ((Provenance.MEASURED, 0.0), (Provenance.OTHER_ENGINE, 0.7))
    )
    assert (own.log2_seconds == other.log2_seconds).all()
    assert (own.known == other.known).all()
    asked = evaluate(GEMM, H200, "sglang-fork", entry.variant, shape, ([1.0, 100.0],))
    assert (asked.provenance >= Provenance.OTHER_ENGINE).all()


def test_shapes_are_those_of_the_table() -> None:
    for entry in store.index().entries[::97]:
        assert (store.shapes(entry) == store.table(entry).shapes).all()
