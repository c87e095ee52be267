"""Priors that were published, against the publication."""

import numpy as np
import pytest

from shardwise.hardware.catalogue import default_catalogue
from shardwise.perfmodel.coefficients import PRIOR
from shardwise.perfmodel.hierarchy import Hierarchy
from shardwise.perfmodel.step import FULL_TILES, KNEE, smooth_maximum

#: Tokens, and microseconds of the fastest int8 kernel for a 1536 x 5120 and a 5120 x 1280 matrix on
#: the 304 compute units of an MI300X: github.com/ROCm/aiter,
#: aiter/configs/a8w8_bpreshuffle_tuned_gemm.csv, commit 08e1e1da. Rows of fewer than 256 tokens are
#: left out: there the kernels wait for memory and for being launched, not for arithmetic.
AITER_INT8 = (
    (256, 17.6791, 9.2104),
    (512, 18.7067, 11.2508),
    (1024, 21.0125, 18.2637),
    (1664, 27.6261, 21.5241),
    (4096, 63.8361, 58.5804),
    (8192, 128.8567, 105.6570),
    (10240, 142.1441, 133.9571),
    (12288, 185.0056, 153.8919),
    (16384, 211.7054, 195.4489),
    (20480, 271.7016, 245.7639),
    (24576, 328.3654, 290.5831),
    (30720, 402.8387, 361.4235),
    (32768, 406.3910, 379.1231),
    (40960, 525.9013, 475.7676),
)


def test_amd_small_batches_cost_what_published_kernels_take() -> None:
    # by hand, 1536 x 5120: 40,960 tokens run at 2 x 40960 x 1536 x 5120 / 526 us = 1,225 TFLOP/s,
    # 256 tokens would take 3.3 us at that rate and took 17.7, 5.4 times as long: s / 1.5 = 4.4
    optimize = pytest.importorskip("scipy.optimize")
    gpu = default_catalogue().gpu("mi300x")
    prior = Hierarchy({}).coefficients(gpu, "vllm")
    tokens, *columns = np.array(AITER_INT8).T
    measured = np.log(np.concatenate(columns) * 1e-6)
    tokens = np.tile(tokens, 2)
    elements = np.repeat([1536.0 * 5120.0, 5120.0 * 1280.0], len(AITER_INT8))
    weights = elements / (prior["bandwidth"] * gpu.memory_bandwidth)

    def errors(logs: np.ndarray) -> np.ndarray:
        small_batch, rate = np.exp(logs)
        thin = 1.0 + small_batch / (1.0 + tokens / FULL_TILES)
        return (
            np.log(smooth_maximum(2.0 * tokens * elements * thin / rate, weights, KNEE)) - measured
        )

    found = np.exp(optimize.least_squares(errors, [0.0, np.log(1e15)]).x)
    assert prior["small_batch"] == pytest.approx(found[0], rel=0.02)


#: Microseconds of one sequence's decode attention at 16,384 and 32,768 tokens of context, with the
#: cache in bf16 and in fp8: github.com/vllm-project/vllm/pull/43232. FlashAttention, FlashInfer.
DECODE_ATTENTION = (
    ((27.178, 43.476), (23.040, 34.508)),
    ((26.752, 46.000), (21.320, 35.124)),
)


def test_an_fp8_cache_is_read_at_the_published_share_of_a_bf16_ones_rate() -> None:
    # FlashAttention: 16.30 us more for twice the bf16 cache, 11.47 for the fp8 one, which has half
    # the bytes: 16.30 / 2 / 11.47 = 0.71; FlashInfer: 19.25 / 2 / 13.80 = 0.70
    shares = [(bf16[1] - bf16[0]) / 2.0 / (fp8[1] - fp8[0]) for bf16, fp8 in DECODE_ATTENTION]
    assert shares == pytest.approx([0.71, 0.70], abs=0.005)
    assert PRIOR["bandwidth_kv_fp8"] == pytest.approx(np.mean(shares), abs=0.01)
