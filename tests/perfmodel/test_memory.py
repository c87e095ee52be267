"""What fits on a rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.architecture.bundled import stored_in
from shardwise.architecture.model import in_dtype
from shardwise.architecture.models import bundled, load
from shardwise.errors import DoesNotFitError
from shardwise.hardware.gpu import Gpu, Interconnect
from shardwise.layout.arrays import Deployments, Layouts
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.layout.rules import allowed_tp
from shardwise.perfmodel.memory import (
    Platform,
    forward_bytes,
    kv_budget_bytes,
    kv_capacity_tokens,
    largest_context,
    largest_models,
    plan,
    require_fit,
    sequence_bytes,
    smallest_fitting_tp,
)

NVLINK = Interconnect("NVLink 4.0", "switched", 450e9, 18, 8)
H200 = Gpu(
    "h200", "H200 SXM", "nvidia", "hopper", 141e9, 4.8e12, {"bf16": 989e12}, 700.0, 132, NVLINK, 8
)
H100 = replace(H200, id="h100", name="H100 SXM", memory_bytes=80e9)
LLAMA_70B = load("llama-3.1-70b")
TP1 = Deployment(
    model="llama-3.1-70b",
    gpu="h200",
    dtypes=Dtypes(weight="fp8"),
)


def test_llama_70b_fp8_on_one_h200() -> None:
    found = plan(LLAMA_70B, H200, TP1, 2048)
    # 0.9 x 141 = 126.9 GB; weights 72.7; a forward 1.7 and engine 1.0: about 51 GB of KV cache
    assert found.budget_bytes == pytest.approx(126.9e9)
    assert found.weight_bytes == pytest.approx(72.66e9, rel=1e-3)
    assert 45e9 < found.kv_budget_bytes < 52e9
    # 327,680 bytes a token
    assert found.kv_capacity_tokens == int(found.kv_budget_bytes / 327_680)
    assert found.largest_batch == found.kv_capacity_tokens // 2048


def test_a_forward_of_llama_70b() -> None:
    # 8192 tokens x 2 bytes x (2 x 8192 + 3 x 28672)
    expected = 8192 * 2 * (2 * 8192 + 3 * 28672)
    assert forward_bytes(LLAMA_70B, Deployments.of([TP1])) == [expected]


def test_the_admission_limit_lies_where_it_was_measured() -> None:
    # InferenceX, H200 TP=1 (lengths 0.9 x nominal): 32 of 8192+1024 ran unqueued, 64 queued;
    # only an fp8 KV cache holds those 32
    deployment = TP1.with_dtypes(kv="fp8")
    assert 32 <= plan(LLAMA_70B, H200, deployment, 0.9 * (8192 + 1024)).largest_batch < 64


def test_a_sweep_of_tp_agrees_with_single_plans() -> None:
    fp8 = TP1.with_dtypes(kv="fp8")
    sizes = [(1, 1), (2, 1), (4, 1), (8, 1), (2, 3)]
    deployments = [fp8.with_layout(tp_size=tp, pp_size=pp) for tp, pp in sizes]
    swept = Deployments.of(deployments)
    stored = stored_in(LLAMA_70B, "fp8")
    budget = kv_budget_bytes(stored, Platform(H200), swept)
    sequence = sequence_bytes(stored, 4096.0, swept.layouts, "fp8")
    tokens = kv_capacity_tokens(budget, sequence, 4096.0, swept.layouts)
    varied = sequence_bytes(stored, np.full(5, 4096.0), swept.layouts, "fp8")
    np.testing.assert_array_equal(sequence, varied)
    for i, deployment in enumerate(deployments):
        one = plan(LLAMA_70B, H200, deployment, 4096)
        assert one.kv_capacity_tokens == tokens[i]
        assert one.largest_batch == one.kv_capacity_tokens // 4096


def test_each_data_parallel_copy_of_attention_holds_its_own_sequences() -> None:
    # MLA's latent is whole on every rank: eight copies of attention hold eight times the tokens
    # that TP=8 does, less what their whole attention weights and their logits take
    deepseek = load("deepseek-r1")
    tp8 = Deployment("deepseek-r1", "h200", Layout(8))
    dp8 = Deployment("deepseek-r1", "h200", Layout(1, ep_size=8, attention_dp=8))
    cut, copied = (plan(deepseek, H200, d, 8192).kv_capacity_tokens for d in (tp8, dp8))
    assert 4 * cut < copied < 8 * cut


def test_what_does_not_fit_says_what_is_short_and_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        require_fit(LLAMA_70B, H100, TP1.with_dtypes(weight="bf16"), 2048)
    # bf16 weights are 141.1 GB; two halves of 70.6 leave too little of 72; fp8 is 72.7
    message = str(caught.value)
    assert "no room for the weights" in message
    assert "141.1" in message
    assert "TP=4 in bf16 or fp4 at TP1" in message
    assert "\n" not in message


def test_too_little_room_for_the_context_is_told_apart() -> None:
    with pytest.raises(DoesNotFitError, match="KV cache for 1,000,000 tokens"):
        require_fit(LLAMA_70B, H200, TP1, 1_000_000)


def test_nothing_in_a_node_fits() -> None:
    small = replace(H100, memory_bytes=24e9)
    deployment = Deployment(
        model="deepseek-r1",
        gpu="h100",
        layout=Layout(tp_size=8),
    )
    assert smallest_fitting_tp(load("deepseek-r1"), small, deployment, 1024) is None
    with pytest.raises(DoesNotFitError, match="nothing fits on one node of 8"):
        require_fit(load("deepseek-r1"), small, deployment, 1024)


@given(
    model=st.sampled_from(bundled()),
    budget=st.floats(1e6, 1e12),
    kv_dtype=st.sampled_from(["bf16", "fp8"]),
)
def test_the_largest_context_is_the_largest_that_fits(
    model: str, budget: float, kv_dtype: str
) -> None:
    arch, one = load(model), Layouts.of([Layout()])
    longest = float(largest_context(arch, np.array([budget]), Layout(), kv_dtype))
    if longest:
        assert sequence_bytes(arch, longest, one, kv_dtype) <= budget * (1 + 1e-9)
    if longest < arch.max_context:
        assert sequence_bytes(arch, longest + 1, one, kv_dtype) > budget * (1 - 1e-9)


@given(model=st.sampled_from(bundled()), dtype=st.sampled_from(["auto", "bf16", "fp8"]))
def test_room_for_kv_never_falls_with_tp_beyond_one(model: str, dtype: str) -> None:
    stored = in_dtype(load(model), dtype)
    sizes = [Layout(size) for size in allowed_tp(stored, 64) if size > 1]
    deployments = Deployments.of([Deployment(model, "h200", layout) for layout in sizes])
    budget = kv_budget_bytes(stored, Platform(replace(H200, memory_bytes=192e9)), deployments)[0]
    assert (np.diff(budget) >= -1.0).all()


def test_largest_models_has_a_row_for_each_gpu_and_dtype() -> None:
    models = [load(model) for model in ("llama-3.1-8b", "qwen3-32b", "llama-3.1-70b")]
    rows = {(row.gpu, row.dtype): row for row in largest_models([H100, H200], models)}
    assert len(rows) == 6
    # bf16: 70B is 141 GB, 32B is 66; fp8: 70B is 72.7 GB of 72 usable on H100
    assert rows["h100", "bf16"].model == "qwen3-32b"
    assert rows["h100", "fp8"].model == "qwen3-32b"
    assert rows["h200", "fp8"].model == "llama-3.1-70b"
    # (141 x 0.9 - 1.03 of engine) / (1 byte + a scale of 4 for each 4,096 weights)
    assert rows["h200", "fp8"].max_parameters == pytest.approx(125.7e9, rel=1e-3)
