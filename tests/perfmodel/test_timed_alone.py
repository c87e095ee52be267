"""Kernels within a step, where tables have them alone: no launch of their own, no warm cache."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import attention_decode
from shardwise.kernels.provenance import Provenance, Times
from shardwise.perfmodel.timed_alone import from_memory, without_launch

H100 = default_catalogue().gpu("h100")
SEQUENCES, CONTEXTS = np.array([1.0, 8.0, 16.0, 32.0, 64.0]), np.array([128.0, 1024.0, 8192.0])


def decode(gpu: str = "h100") -> tuple[Times, np.ndarray]:
    """The calls of Llama 3.1 8B on one GPU, and the bytes that they read: 4 KiB a token."""
    sequences, contexts = SEQUENCES[:, None], CONTEXTS[None, :]
    times = attention_decode(default_catalogue().gpu(gpu), "vllm", sequences, contexts, 32, 8, 128)
    return times, 4096.0 * sequences * contexts


def test_keys_and_values_that_fit_in_the_cache_are_read_from_memory_in_a_step() -> None:
    times, read = decode()
    within = from_memory(times, H100, read)
    # 8 x 1024 tokens are 34 MB, under 0.7 of 50 MB: 18.2 us in the table, plus 34 MB at 3.35 TB/s
    assert times.seconds[1, 1] == pytest.approx(18.2e-6, rel=0.01)
    assert within.seconds[1, 1] - times.seconds[1, 1] == pytest.approx(10.0e-6, rel=0.01)
    # 16 x 1024 are 67 MB, 1.3 times the cache: nothing was cached
    assert within.seconds[2, 1] == times.seconds[2, 1]


def test_more_sequences_or_context_never_take_less_time() -> None:
    for gpu in ("h100", "b200", "l40s", "rtx-pro-6000", "mi300x"):
        times, read = decode(gpu)
        seconds = from_memory(times, default_catalogue().gpu(gpu), read).seconds
        assert np.all(np.diff(seconds, axis=0) >= 0)
        assert np.all(np.diff(seconds, axis=1) >= 0)


def test_the_cache_is_that_of_the_gpu_in_the_table() -> None:
    times, read = decode("mi300x")
    donor = default_catalogue().gpu(times.source.split(" ")[0])
    assert donor.id != "mi300x"
    mi300x = default_catalogue().gpu("mi300x")
    added = from_memory(times, mi300x, read).seconds[0, 0] - times.seconds[0, 0]
    assert added == pytest.approx(read[0, 0] / mi300x.memory_bandwidth)
    assert np.all(from_memory(times, replace(mi300x, l2_cache_bytes=0.0), read).seconds > 0)


def test_a_call_loses_the_launch_but_at_most_half_of_its_time() -> None:
    times, _ = decode()
    less = without_launch(times, 4e-6).seconds
    assert times.seconds[4, 2] - less[4, 2] == pytest.approx(4e-6)
    assert without_launch(times, 1.0).seconds == pytest.approx(times.seconds / 2.0)


def test_times_that_include_no_launch_are_not_changed() -> None:
    times, _ = decode()
    tuned = replace(times, source="mi300x aiter 2026-08-22 bf16")
    assert np.array_equal(without_launch(tuned, 4e-6).seconds, times.seconds)
    for code in (Provenance.OTHER_GPU, Provenance.ROOFLINE):
        codes = np.full(times.seconds.shape, code, dtype=np.uint8)
        elsewhere = replace(times, provenance=codes)
        assert np.array_equal(without_launch(elsewhere, 4e-6).seconds, times.seconds)
