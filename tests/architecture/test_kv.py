"""KV cache bytes."""

from __future__ import annotations

import numpy as np
import pytest
from shardwise.architecture.kv import kv_bytes, require_context

from shardwise.architecture.models import load
from shardwise.errors import InputError


def test_gqa_bytes_per_token() -> None:
    # 80 layers x (K and V) x 8 heads x 128 x 2 bytes
    assert kv_bytes(load("llama-3.1-70b"), 1) == 80 * 2 * 8 * 128 * 2 == 327_680
    assert kv_bytes(load("llama-3.1-70b"), 1, "fp8") == 163_840


def test_tp_above_the_kv_heads_replicates_them() -> None:
    tp = np.array([1, 2, 4, 8, 16, 32])
    heads = kv_bytes(load("llama-3.1-70b"), 1, "bf16", tp) / (80 * 2 * 128 * 2)
    np.testing.assert_array_equal(heads, [8, 4, 2, 1, 1, 1])


def test_the_mla_latent_is_whole_on_every_rank() -> None:
    # 61 layers x (512 + 64) x 2 bytes, whatever the TP
    np.testing.assert_array_equal(
        kv_bytes(load("deepseek-r1"), 1, "bf16", np.array([1, 8])), [70_272, 70_272]
    )


def test_sliding_layers_hold_their_window_at_most() -> None:
    # gpt-oss-120b: 18 full and 18 sliding layers (128) of 2 x 8 x 64 elements
    arch, token_layer = load("gpt-oss-120b"), 2 * 8 * 64 * 2
    context = np.array([100.0, 1128.0])
    expected = np.array([36 * 100, 18 * 1128 + 18 * 128]) * token_layer
    np.testing.assert_array_equal(kv_bytes(arch, context), expected)


def test_arrays_of_context_and_tp_broadcast() -> None:
    grid = kv_bytes(load("llama-3.1-8b"), np.array([[1.0], [2.0]]), "auto", np.array([1, 2, 4]))
    assert grid.shape == (2, 3)
    assert grid[1, 2] == 2 * grid[0, 2]


def test_the_fullest_stage_of_pp_is_counted() -> None:
    # 126 layers over 4 stages: the fullest has 32
    arch = load("llama-3.1-405b")
    assert kv_bytes(arch, 1, "bf16", 1, 4) == 32 * 2 * 8 * 128 * 2


def test_a_request_is_at_most_the_models_context() -> None:
    require_context(load("llama-3-8b"), 7168, 1024)
    with pytest.raises(InputError, match="8193 tokens; allowed: at most the 8192"):
        require_context(load("llama-3-8b"), 7169, 1024)
