"""Which engine's table a kernel takes."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.kernels.provenance import Provenance, Times
from shardwise.layout.deployment import Layout
from shardwise.layout.shards import rank_shards
from shardwise.perfmodel.attention_operators import decode_seconds
from shardwise.perfmodel.best_tables import fastest

GPUS = default_catalogue()


def attention(gpu: str, engine: str, kv_dtype: str) -> np.ndarray:
    rank = rank_shards(stored_in(load("llama-3.1-8b"), "bf16"), Layout(1))
    return decode_seconds([rank], GPUS.gpu(gpu), engine, kv_dtype, lambda *_: None)


def test_vllm_and_sglang_share_flash_attention_3_on_hopper() -> None:
    both = [attention("h100", engine, "bf16") for engine in ("vllm", "sglang")]
    assert both[0] == pytest.approx(both[1])


@pytest.mark.parametrize(("gpu", "kv_dtype"), [("h100", "fp8"), ("b200", "bf16")])
def test_other_caches_and_gpus_have_kernels_of_their_own(gpu: str, kv_dtype: str) -> None:
    both = [attention(gpu, engine, kv_dtype) for engine in ("vllm", "sglang")]
    assert not np.allclose(both[0], both[1], rtol=0.02)


def test_the_fastest_is_of_measured_engines_only() -> None:
    def kernel(engine: str) -> Times:
        seconds = {"vllm": 3.0, "sglang": 2.0, "trtllm": 1.0}[engine]
        code = Provenance.OTHER_GPU if engine == "trtllm" else Provenance.MEASURED
        return Times(np.array([seconds]), np.array([code], np.uint8), np.zeros(1), engine)

    assert fastest(kernel, "vllm").seconds == [2.0]
    assert fastest(kernel, "vllm", ("vllm",)).seconds == [3.0]
