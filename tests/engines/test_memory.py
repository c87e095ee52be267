"""Memory at start-up, against start-up logs: what vLLM and SGLang had left for the KV cache.

Weights are those loaded according to the log, or the checkpoint's bytes over TP.
"""

from __future__ import annotations

import pytest

from shardwise.engines import Device, get
from shardwise.units import GIB

H100_GIB = 79.19  # as vLLM prints it for H100 SXM
LOGIT = 1 / GIB


def vllm_left_gib(
    total: float,
    fraction: float,
    weights: float,
    logits: float,
    version: str,
    collective: float = 0.0,
) -> float:
    """Usable less weights, context, collectives where counted, and the sampler's dummy run."""
    memory = get("vllm").startup(Device("nvidia", total * GIB, "hopper"), version)
    assert memory.share == "total"
    taken = memory.context_bytes.value / GIB if memory.context_counted else 0.0
    taken += collective if memory.collective_counted else 0.0
    return (
        total * fraction - weights - taken - memory.sampler_bytes_per_logit.value * logits * LOGIT
    )


def test_gpt_oss_120b_does_not_start_on_one_h100_with_defaults() -> None:
    """vllm#23278, 0.10.1: -2.14 GiB left for 1,024 sequences of a vocabulary of 201,088."""
    left = vllm_left_gib(H100_GIB, 0.9, 65.97, 1024 * 201088, "0.10.1")
    assert left == pytest.approx(-2.14, abs=0.5)


def test_nor_with_fewer_tokens_a_step_but_with_a_larger_fraction() -> None:
    """vllm#27508: 1.71 GiB left at 0.95, 1,024 tokens a step: the sampler decides, not layers."""
    left = vllm_left_gib(H100_GIB, 0.95, 65.97, 1024 * 201088, "0.11.0")
    assert left == pytest.approx(1.71, abs=0.5)


def test_qwen3_235b_in_fp8_on_four_h100() -> None:
    """vllm#21348, before 0.11, so that NCCL is counted: 8.11 GiB; 236.3 GB of weights over 4."""
    collective = get("vllm").startup(Device(), "0.10.0").collective_bytes.value / GIB
    left = vllm_left_gib(H100_GIB, 0.9, 236.3e9 / 4 / GIB, 1024 * 151936, "0.10.0", collective)
    assert left == pytest.approx(8.11, rel=0.1)


def test_a_14b_on_two_rtx_4090_without_peer_access() -> None:
    """vllm#13061, 0.7: 81,536 tokens of 96 KiB are 7.46 GiB, at 0.98 of 23.52 GiB."""
    left = vllm_left_gib(23.52, 0.98, 14.77e9 / GIB, 256 * 152064, "0.7.2", 0.1)
    assert left == pytest.approx(81536 * 98304 / GIB, rel=0.05)


def test_llama_3_1_8b_on_an_rtx_3090_in_an_early_version() -> None:
    """vllm#10517, 0.6.4: 31,232 tokens of 128 KiB are 3.81 GiB."""
    left = vllm_left_gib(23.56, 0.9, 14.96, 256 * 128256, "0.6.4")
    assert left == pytest.approx(31232 * 131072 / GIB, rel=0.1)


def test_sglangs_fraction_is_of_what_was_free_before_the_model_was_loaded() -> None:
    """vllm#21348: Qwen3-235B on four H100 at 0.93 leaves 16.46 GiB for K and V."""
    memory = get("sglang").startup(Device("nvidia", H100_GIB * GIB, "hopper"))
    assert memory.share == "free_before_load"
    free = H100_GIB - (memory.context_bytes.value + memory.collective_bytes.value) / GIB
    assert free * 0.93 - 236.3e9 / 4 / GIB == pytest.approx(16.46, rel=0.05)


def test_cuda_graphs_count_since_0_20_and_nccl_until_0_10() -> None:
    """gpu_worker.py of 0.10.1, 0.11.0, 0.19.0 and 0.20.0."""
    versions = ("0.9.2", "0.10.1", "0.11.0", "0.19.0", "0.20.0", "0.32.0")
    startups = [get("vllm").startup(Device(), version) for version in versions]
    assert [memory.graph_counted for memory in startups] == [False] * 4 + [True] * 2
    assert [memory.collective_counted for memory in startups] == [True] * 2 + [False] * 4


def test_every_quantity_has_a_source_and_lies_in_its_spread() -> None:
    for name in ("vllm", "sglang", "trtllm", "atom", "builtin"):
        memory = get(name).startup(Device())
        for quantity in (
            *(memory.context_bytes, memory.collective_bytes, memory.graph_bytes),
            memory.sampler_bytes_per_logit,
        ):
            assert quantity.source
            assert quantity.low <= quantity.value <= quantity.high
