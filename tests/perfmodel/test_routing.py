"""Experts that calls of the tables read, and times for as many as serving reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import experts
from shardwise.kernels.experts import touched
from shardwise.kernels.provenance import Provenance, Times
from shardwise.perfmodel.grids import TOKENS
from shardwise.perfmodel.routing import ALPHA, TOWARDS_UNIFORM, as_served, read_in_tables
from shardwise.perfmodel.timed_alone import AROUND_EXPERTS_S, whole_experts


def drawn(tokens: int, number: int, top_k: int, rng: np.random.Generator) -> int:
    """Experts with tokens in one draw of the tables' routing."""
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > number else (0.01, 2.0)
    power = 1.0 - ALPHA
    u = rng.random(number)
    shares = ((high**power - low**power) * u + low**power) ** (1.0 / power)
    counts = np.minimum(np.rint(shares / shares.sum() * tokens * top_k), tokens)
    left = max(int(tokens * top_k - counts.sum()), 0)
    return int(min(number, (counts > 0).sum() + left))


@pytest.mark.parametrize(
    ("tokens", "number", "top_k"), [(8, 128, 8), (16, 128, 8), (32, 128, 8), (64, 256, 8)]
)
def test_the_expected_experts_are_the_mean_of_draws(tokens: int, number: int, top_k: int) -> None:
    rng = np.random.default_rng(1)
    mean = np.mean([drawn(tokens, number, top_k, rng) for _ in range(200)])
    assert read_in_tables(np.array([tokens]), number, top_k)[0] == pytest.approx(mean, rel=0.03)


def test_a_call_with_one_assignment_for_each_expert_reads_59_of_128_experts() -> None:
    read = read_in_tables(np.array([8, 16, 32]), 128, 8)
    assert read == pytest.approx([43, 59, 106], abs=1.0)
    assert touched(np.array(128.0), np.array(128.0)) == pytest.approx(81, abs=0.2)


@given(
    st.integers(0, 14), st.sampled_from([(8, 2), (32, 4), (128, 4), (128, 8), (256, 8), (512, 10)])
)
def test_as_many_experts_are_read_as_there_can_be(octave: int, kind: tuple[int, int]) -> None:
    number, top_k = kind
    tokens = 2.0**octave
    read = read_in_tables(np.array([tokens]), number, top_k)[0]
    assert top_k - 0.1 <= read <= min(number, tokens * top_k) + 1e-9


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_times_in_the_tables_follow_the_experts_that_their_calls_read(engine: str) -> None:
    gpu, sizes = default_catalogue().gpu("h100"), np.array([8.0, 16.0, 32.0])
    before, at, after = experts(gpu, engine, "bf16", sizes, 2048, 768, 128, 8).seconds

    def off(read: np.ndarray) -> float:
        share = (read[1] - read[0]) / (read[2] - read[0])
        return float((before + share * (after - before)) / at - 1.0)

    assert abs(off(read_in_tables(sizes, 128, 8))) < 0.06
    assert off(touched(np.array(128.0), sizes * 8)) > 0.2


def table(source: str, kind: Provenance = Provenance.MEASURED) -> Times:
    """Times of 10 us and 3 us for each of 128 experts that a call reads."""
    seconds = (10e-6 + 3e-6 * read_in_tables(TOKENS, 128, 8))[None, :]
    return Times(seconds, np.full(seconds.shape, kind, np.uint8), np.zeros(seconds.shape), source)


def served(times: Times, compute_share: float = 0.0) -> np.ndarray:
    one = np.array([[1.0]])
    share = np.full(times.seconds.shape, compute_share)
    return np.asarray(as_served(times, share, 128 * one, 8 * one)[0])


def test_serving_reads_more_experts_than_the_tables_but_not_as_many_as_uniform_draws() -> None:
    times, at = table("h100 vllm"), int(np.argmin(np.abs(TOKENS - 16.0)))
    extra = 3e-6 * TOWARDS_UNIFORM * (81.1 - 58.6)
    assert served(times)[at] - times.seconds[0, at] == pytest.approx(extra, rel=0.05)
    assert served(times)[-1] == pytest.approx(times.seconds[0, -1], rel=0.01)  # all anyway


def test_arithmetic_datasheet_rates_and_tuning_results_keep_their_times() -> None:
    for times, share in (
        (table("h100 vllm"), 1.0),
        (table("h100 vllm", Provenance.ROOFLINE), 0.0),
        (table("mi355x aiter"), 0.0),
    ):
        rising = np.maximum.accumulate(times.seconds[0])
        expected = times.seconds[0] if "aiter" in times.source else rising
        assert served(times, share) == pytest.approx(expected)


def test_tuning_results_get_the_kernels_around_the_products() -> None:
    bare = table("mi355x aiter")
    assert whole_experts(bare).seconds - bare.seconds == pytest.approx(AROUND_EXPERTS_S)
