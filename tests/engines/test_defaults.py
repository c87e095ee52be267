"""What engines start with, by device and version, and how they fill their steps."""

from __future__ import annotations

import pytest

from shardwise.engines import Device, every, get
from shardwise.engines.vllm import graph_batch_sizes
from shardwise.units import GIB

H100 = Device("nvidia", 79.19 * GIB, "hopper", name="NVIDIA H100 80GB HBM3")
A100 = Device("nvidia", 79.25 * GIB, "ampere", name="NVIDIA A100-SXM4-80GB")
L40S = Device("nvidia", 44.5 * GIB, "ada", name="NVIDIA L40S")
B200 = Device("nvidia", 178.4 * GIB, "blackwell", name="NVIDIA B200")


@pytest.mark.parametrize(
    ("device", "version", "seqs", "tokens", "fraction"),
    [
        (H100, "0.11.0", 1024, 8192, 0.9),
        (H100, "0.32.0", 1024, 8192, 0.92),
        (A100, "0.8.5", 1024, 8192, 0.9),
        (A100, "0.11.0", 256, 2048, 0.9),
        (L40S, "0.11.0", 256, 2048, 0.9),
        (B200, "0.24.0", 1024, 8192, 0.92),
        (B200, "0.28.0", 1024, 16384, 0.92),
        (H100, "0.6.3", 256, 2048, 0.9),
        (Device("cpu"), "0.11.0", 128, 2048, 0.9),
    ],
)
def test_vllms_defaults_differ_by_gpu_and_version(
    device: Device, version: str, seqs: int, tokens: int, fraction: float
) -> None:
    found = get("vllm").defaults(device, version)
    assert (found.max_num_seqs, found.max_num_batched_tokens) == (seqs, tokens)
    assert found.memory_fraction == fraction


def test_sglangs_follow_the_memory() -> None:
    sizes = [get("sglang").defaults(device).max_num_batched_tokens for device in (L40S, H100, B200)]
    assert sizes == [4096, 8192, 16384]
    # 12,800 MiB for 8,192 tokens, 512 + 128 + 2 x 256 = 13,440 of 81,091 MiB
    assert get("sglang").defaults(H100).memory_fraction == pytest.approx(0.834, abs=0.001)
    assert get("sglang").defaults(H100, "0.4.6", 8).memory_fraction == 0.81


def test_tensorrt_llm_has_the_same_everywhere() -> None:
    for device in (H100, B200):
        found = get("trtllm").defaults(device)
        assert (found.max_num_seqs, found.max_num_batched_tokens) == (2048, 8192)


def test_graphs_are_captured_at_these_batch_sizes() -> None:
    assert graph_batch_sizes(H100, None, 1024)[:6] == (1, 2, 4, 8, 16, 24)
    assert max(graph_batch_sizes(H100, None, 1024)) == 512
    assert max(graph_batch_sizes(H100, None, 64)) == 128
    assert max(graph_batch_sizes(B200, None, 1024)) == 1024
    assert 264 not in graph_batch_sizes(H100, None, 1024)  # multiples of 16 above 256
    for engine in every():
        sizes = engine.scheduling(H100).graph_batch_sizes
        assert list(sizes) == sorted(set(sizes))


def test_the_custom_all_reduce_stops_at_a_size_and_world() -> None:
    reduce = get("vllm").scheduling(H100).all_reduce
    assert reduce.custom_limit(8, (9, 0)) == 256 * 1024
    assert reduce.custom_limit(4, (9, 0)) == 8 * 2**20  # its buffer, not the table's 32 MiB
    assert reduce.custom_limit(4, (8, 0)) == 8 * 2**20
    assert reduce.custom_limit(3, (9, 0)) == 0
    assert reduce.pcie_max_world == 2
    assert get("builtin").scheduling(H100).all_reduce.custom_limit(2, None) == 0


def test_async_scheduling_is_on_since_0_14() -> None:
    assert get("vllm").scheduling(H100, "0.13.0").steps_ahead == 0
    assert get("vllm").scheduling(H100, "0.15.1").steps_ahead == 1


def test_inputs_of_experts_are_gathered_as_the_kernels_take_them() -> None:
    gathered = get("trtllm").scheduling(H100).gathers_quantized
    assert "nvfp4" in gathered
    assert "fp8_block" not in gathered  # its scales are computed after the gathering
    assert get("vllm").scheduling(H100, "0.15.1").gathers_quantized == ()
    assert "fp8_block" in get("vllm").scheduling(H100, "0.16.0").gathers_quantized
    assert get("sglang").scheduling(H100).gathers_quantized == ()


def test_the_cache_follows_the_checkpoint_and_is_else_16_bits() -> None:
    for name in ("vllm", "sglang", "trtllm", "atom"):
        assert get(name).auto_kv("fp8", "") == "bf16"
        assert get(name).auto_kv("nvfp4", "fp8") == "fp8"
        assert get(name).auto_kv("fp16", "") == "fp16"
    assert get("builtin").auto_kv("fp32", "") == "fp32"


def test_everything_says_where_it_was_read() -> None:
    for engine in every():
        assert engine.capabilities.source
        assert engine.defaults(H100).source
        assert engine.scheduling(H100).source
        assert engine.packaging.install
