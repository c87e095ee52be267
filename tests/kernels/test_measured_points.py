"""Times at points that were measured, looked up by hand in the reference files (microseconds)."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels import (
    Provenance,
    Times,
    all_reduce,
    attention_decode,
    attention_prefill,
    expert_dispatch,
    experts,
    gemm,
    linear_decode,
    mla_decode,
    mla_prefill,
    sparse_prefill,
)

GPU = default_catalogue().gpu
STORED = 0.0008  # a stored time is within 1/1024 octave of the measured one


def is_measured(times: Times, microseconds: float, within: float = STORED) -> None:
    assert times.seconds == pytest.approx(microseconds * 1e-6, rel=within)
    assert times.provenance == Provenance.MEASURED
    assert times.distance == 0.0


@pytest.mark.parametrize(
    ("gpu", "engine", "dtype", "m", "microseconds"),
    [
        ("h200", "vllm", "bf16", 4096, 664.0),
        ("h200", "sglang", "fp8", 4096, 519.2),
        ("b200", "trtllm", "fp8_block", 4096, 204.2),
        ("b200", "vllm", "nvfp4", 32768, 1588.0),
        ("a100-80gb", "vllm", "bf16", 256, 162.6),
        ("l40s", "vllm", "fp8", 4096, 1655.0),
    ],
)
def test_a_gemm_of_8192_by_8192_takes_what_was_measured(
    gpu: str, engine: str, dtype: str, m: int, microseconds: float
) -> None:
    is_measured(gemm(GPU(gpu), engine, dtype, m, 8192, 8192), microseconds)


def test_experts_cut_by_tensor_parallelism_take_what_was_measured() -> None:
    times = experts(GPU("h200"), "vllm", "fp8_block", 512, 7168, 2048 / 8, 256, 8)
    is_measured(times, 524.4)


def test_whole_experts_of_one_rank_take_what_was_measured() -> None:
    times = experts(GPU("h200"), "vllm", "fp8_block", 4096, 7168, 2048, 256, 8, ep_size=8)
    is_measured(times, 2017.0)


def test_decode_attention_takes_what_was_measured() -> None:
    times = attention_decode(GPU("h200"), "vllm", 64, 8192, 8, 1, 128)
    is_measured(times, 77.01)
    times = attention_decode(GPU("h200"), "vllm", 64, 8192, 8, 1, 128, kv_dtype="fp8")
    is_measured(times, 60.24)


def test_decode_attention_takes_the_time_of_the_caches_it_reads() -> None:
    """Tables have at most 8 KV heads. 32 of 8 sequences are as many caches as 8 of 32, which were
    measured: 42.0 us for 512 tokens, 59.8 for 1,024 (vLLM 0.24 on H100)."""
    context = [512, 1024]
    measured = attention_decode(GPU("h100"), "vllm", 32, context, 32, 8, 128)
    assert measured.seconds == pytest.approx([41.99e-6, 59.82e-6], rel=1e-3)
    every_head_its_own = attention_decode(GPU("h100"), "vllm", 8, context, 32, 32, 128)
    assert every_head_its_own.seconds == pytest.approx(measured.seconds, rel=0.1)
    assert every_head_its_own.provenance.tolist() == [Provenance.INTERPOLATED] * 2


def test_unmeasured_experts_take_the_time_of_as_many_rows_per_expert() -> None:
    """Qwen3 30B-A3B's 128 experts were measured with 8 per token. With 4 per token, twice the
    tokens are the same rows."""
    tokens = np.array([256.0, 1024.0, 8192.0])
    measured = experts(GPU("h200"), "vllm", "bf16", tokens, 2048, 768, 128, 8)
    assert measured.provenance.tolist() == [Provenance.MEASURED] * 3
    halved = experts(GPU("h200"), "vllm", "bf16", 2 * tokens, 2048, 768, 128, 4)
    assert halved.provenance.tolist() == [Provenance.INTERPOLATED] * 3
    assert halved.seconds == pytest.approx(measured.seconds, rel=0.1)


def test_beyond_a_table_the_part_above_the_launch_grows_with_the_roofline() -> None:
    """The all-reduce of eight MI355X was measured up to 1.57 MB: 12.9 us. Its fastest call, the
    launch, takes 6.4 us."""
    size = np.array([1572864.0, 16 * 1572864.0])
    times = all_reduce(GPU("mi355x"), "vllm", 8, size, "graph")
    assert times.seconds == pytest.approx([12.9e-6, (6.4 + 16 * (12.9 - 6.4)) * 1e-6], rel=0.01)
    assert times.provenance.tolist() == [Provenance.MEASURED, Provenance.EXTRAPOLATED]


def test_a_window_makes_context_free() -> None:
    times = attention_decode(GPU("h100"), "vllm", 64, [2048, 8192], 64, 8, 64, window=128)
    assert times.seconds == pytest.approx([32.7e-6, 33.2e-6], rel=0.02)


def test_prefill_attention_takes_what_was_measured_twice() -> None:
    # the table has 908.2 and 1069 us at this point: their geometric mean is kept
    times = attention_prefill(GPU("b200"), "sglang", 4, 8192, 16, 2, 128)
    is_measured(times, np.sqrt(908.2 * 1069.0))


def test_latent_attention_takes_what_was_measured() -> None:
    is_measured(mla_decode(GPU("h200"), "trtllm", 32, 16384, 128), 250.9)
    is_measured(mla_prefill(GPU("h200"), "trtllm", 4, 4096, 128), 5299.0)


def test_sparse_attention_takes_what_was_measured() -> None:
    times = sparse_prefill(GPU("b200"), "trtllm", 8, 4096, 128, 7168, "fp8_block")
    is_measured(times, 27230.0)


def test_a_linear_layer_is_its_convolution_and_its_scan() -> None:
    # 3.74 us and 71.5 us: medians of five model widths, which the kernels do not see
    times = linear_decode(GPU("h200"), "vllm", 64, 16, 32)
    assert times.seconds == pytest.approx(75.2e-6, rel=0.01)


def test_an_all_reduce_takes_what_was_measured() -> None:
    is_measured(all_reduce(GPU("h200"), "vllm", 8, 2 * 2097152), 28.43)
    is_measured(all_reduce(GPU("l40s"), "vllm", 8, 2 * 131072), 207.1)


def test_a_dispatch_takes_what_was_measured() -> None:
    times = expert_dispatch(GPU("h200"), "trtllm", 4096, 7168, 8, 256, 8)
    is_measured(times, 750.5)
