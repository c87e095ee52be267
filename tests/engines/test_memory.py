"""Memory at start-up, against start-up logs: what vLLM and SGLang had left for the KV cache.

Weights are those loaded according to the log, or the checkpoint's bytes over TP.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise.engines import Device, every, get
from shardwise.engines.startup import Load
from shardwise.units import GIB

H100_GIB = 79.19  # as vLLM prints it for H100 SXM


def left_gib(
    engine: str, total: float, fraction: float, load: Load, version: str, peers: bool = True
) -> float:
    memory = get(engine).startup(Device("nvidia", total * GIB, "hopper"), version)
    budget = memory.kv_budget_bytes(
        load, memory_bytes=total * GIB, fraction=fraction, peer_access=peers
    )
    return float(budget) / GIB


def loaded(weights_gib: float, sequences: int, vocabulary: int, ranks: int = 1) -> Load:
    """Layers in all these runs need less than the sampler."""
    return Load(weights_gib * GIB, 0.0, sequences * vocabulary, ranks)


def test_gpt_oss_120b_does_not_start_on_one_h100_with_defaults() -> None:
    """vllm#23278, 0.10.1: -2.14 GiB left for 1,024 sequences of a vocabulary of 201,088."""
    left = left_gib("vllm", H100_GIB, 0.9, loaded(65.97, 1024, 201088), "0.10.1")
    assert left == pytest.approx(-2.14, abs=0.5)


def test_nor_with_fewer_tokens_a_step_but_with_a_larger_fraction() -> None:
    """vllm#27508: 1.71 GiB left at 0.95, 1,024 tokens a step: the sampler decides, not layers."""
    left = left_gib("vllm", H100_GIB, 0.95, loaded(65.97, 1024, 201088), "0.11.0")
    assert left == pytest.approx(1.71, abs=0.5)


def test_qwen3_235b_in_fp8_on_four_h100() -> None:
    """vllm#21348, before 0.11, so that NCCL is counted: 8.11 GiB; 236.3 GB of weights over 4."""
    load = loaded(236.3e9 / 4 / GIB, 1024, 151936, 4)
    assert left_gib("vllm", H100_GIB, 0.9, load, "0.10.0") == pytest.approx(8.11, rel=0.1)


def test_a_14b_on_two_rtx_4090_without_peer_access() -> None:
    """vllm#13061, 0.7: 81,536 tokens of 96 KiB are 7.46 GiB, at 0.98 of 23.52 GiB."""
    load = loaded(14.77e9 / GIB, 256, 152064, 2)
    left = left_gib("vllm", 23.52, 0.98, load, "0.7.2", peers=False)
    assert left == pytest.approx(81536 * 98304 / GIB, rel=0.05)


def test_llama_3_1_8b_on_an_rtx_3090_in_an_early_version() -> None:
    """vllm#10517, 0.6.4: 31,232 tokens of 128 KiB are 3.81 GiB; a step takes 20,000 tokens.

    Gate, up and product (3 x 14,336) and two hidden vectors of 4,096, 2 bytes each: 1.91 GiB.
    """
    forward = 20_000 * 2.0 * (3 * 14_336 + 2 * 4_096)
    load = Load(14.96 * GIB, forward, 256 * 128_256)
    left = left_gib("vllm", 23.56, 0.9, load, "0.6.4")
    assert left == pytest.approx(31232 * 131072 / GIB, rel=0.1)


def test_minimax_m2_on_two_mi300x() -> None:
    """recipes#273, 0.17.1: 497,600 tokens of 124 KiB a rank are 58.8 GiB; 228.7 GB over 2."""
    memory = get("vllm").startup(Device("amd", 191.98 * GIB, "cdna3"), "0.17.1")
    load = loaded(228.7e9 / 2 / GIB, 1024, 200064, 2)
    left = memory.kv_budget_bytes(load, memory_bytes=191.98 * GIB, fraction=0.9)
    assert float(left) / GIB == pytest.approx(497600 * 126976 / GIB, rel=0.05)


def test_sglangs_fraction_is_of_what_was_free_before_the_model_was_loaded() -> None:
    """vllm#21348: Qwen3-235B on four H100 at 0.93 leaves 16.46 GiB for K and V."""
    load = loaded(236.3e9 / 4 / GIB, 1024, 151936, 4)
    assert left_gib("sglang", H100_GIB, 0.93, load, "0.4.9") == pytest.approx(16.46, rel=0.05)


def test_tensorrt_llms_fraction_is_of_what_the_loaded_model_leaves() -> None:
    """80 GiB less 1 of context and 40 of weights: 0.9 of the 39 left."""
    left = left_gib("trtllm", 80.0, 0.9, loaded(40.0, 0, 0), "1.0")
    assert left == pytest.approx(0.9 * 39.0)


def test_the_larger_of_layers_and_sampler_counts() -> None:
    memory = get("vllm").startup(Device(), "0.11.0")
    sampler = memory.sampler_bytes_per_logit.value * 256 * 128256
    budgets = [
        float(
            memory.kv_budget_bytes(
                Load(0.0, forward, 256 * 128256), memory_bytes=80 * GIB, fraction=0.9
            )
        )
        for forward in (0.0, sampler, 2 * sampler)
    ]
    assert budgets[0] == budgets[1] == budgets[2] + sampler


def test_cuda_graphs_count_since_0_20_and_nccl_until_0_10() -> None:
    """gpu_worker.py of 0.10.1, 0.11.0, 0.19.0 and 0.20.0."""
    versions = ("0.9.2", "0.10.1", "0.11.0", "0.19.0", "0.20.0", "0.32.0")
    startups = [get("vllm").startup(Device(), version) for version in versions]
    assert [memory.graph_counted for memory in startups] == [False] * 4 + [True] * 2
    assert [memory.collective_counted for memory in startups] == [True] * 2 + [False] * 4


@given(
    st.sampled_from([engine.name for engine in every()]),
    st.floats(8, 300),
    st.floats(0.3, 0.99),
    st.sampled_from(["", "0.6.4", "0.10.1", "0.32.0"]),
)
def test_more_weights_or_ranks_never_leave_more(
    engine: str, total: float, fraction: float, version: str
) -> None:
    memory = get(engine).startup(Device("nvidia", total * GIB, "hopper"), version)
    weights = np.array([1.0, 2.0, 4.0]) * GIB
    one, two = (
        memory.kv_budget_bytes(
            Load(weights, 0.5 * GIB, 256 * 128000, ranks),
            memory_bytes=total * GIB,
            fraction=fraction,
        )
        for ranks in (1, 2)
    )
    assert (np.diff(one) < 0).all()
    assert (two <= one).all()


def test_every_quantity_has_a_source_and_lies_in_its_spread() -> None:
    for engine in every():
        memory = engine.startup(Device())
        for quantity in (
            *(memory.context_bytes, memory.collective_bytes, memory.graph_bytes),
            *(memory.collective_bytes_without_peers, memory.sampler_bytes_per_logit),
        ):
            assert quantity.source
            assert quantity.low <= quantity.value <= quantity.high
