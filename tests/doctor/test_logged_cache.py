"""A start-up log's KV cache as a fact for a plan."""

from __future__ import annotations

import pytest

from shardwise.architecture.models import load
from shardwise.doctor.logged_cache import logged_cache
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.node.reading.read import read
from shardwise.units import GIB

LOG = """\
$ vllm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 4 --max-num-seqs 16
INFO [gpu_model_runner.py:1] Model loading took 32.90 GiB memory and 4.5 seconds
INFO [gpu_worker.py:2] Available KV cache memory: 33.00 GiB
INFO [kv_cache_utils.py:3] GPU KV cache size: 432,512 tokens
"""
H100 = default_catalogue().gpu("h100")
LLAMA = load("llama-3.1-70b")


def test_tokens_of_the_log_are_the_bytes_that_they_take() -> None:
    """2 x 80 layers x 2 KV heads a rank x 128 x 2 bytes = 80 KiB a token; 432,512 are 33 GiB."""
    found = logged_cache(read(LOG).startups, LLAMA, H100, "vllm")
    assert found.logged_bytes == pytest.approx(432_512 * 80 * 1024)
    assert found.logged_bytes / GIB == pytest.approx(33.0, abs=0.01)
    assert found.shortfall_bytes == found.predicted_bytes - found.logged_bytes


def test_a_log_without_tokens_is_taken_by_its_bytes() -> None:
    log = LOG[: LOG.index("INFO [kv_cache_utils")]
    assert logged_cache(read(log).startups, LLAMA, H100, "vllm").logged_bytes == 33.0 * GIB


def test_the_last_start_that_states_a_cache_counts() -> None:
    second = LOG.replace("33.00", "30.00").replace("432,512", "393,216")
    found = logged_cache(read(LOG + second).startups, LLAMA, H100, "vllm")
    assert found.logged_bytes == 393_216 * 80 * 1024


def test_another_models_log_is_refused_by_its_weights() -> None:
    with pytest.raises(InputError, match=r"loaded 32\.90 GiB .*llama-3\.1-8b .*log's model"):
        logged_cache(read(LOG).startups, load("llama-3.1-8b"), H100, "vllm")


def test_another_engines_log_is_refused() -> None:
    with pytest.raises(InputError, match="from vllm, but the plan uses sglang; pass --engine vllm"):
        logged_cache(read(LOG).startups, LLAMA, H100, "sglang")


def test_a_log_without_a_cache_is_refused() -> None:
    with pytest.raises(InputError, match="does not state the KV cache"):
        logged_cache((), LLAMA, H100, "vllm")
