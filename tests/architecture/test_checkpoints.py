"""Bytes of published checkpoints, against the sizes that their index files give."""

from __future__ import annotations

import pytest

from shardwise.architecture.model import LayerGroup, Model
from shardwise.architecture.models import load, published_checkpoint, published_id


def group_bytes(groups: tuple[LayerGroup, ...]) -> float:
    return sum(
        group.count * t.copies * float(t.format.bytes_of(t.rows, t.cols))
        for group in groups
        for t in group.tensors
    )


def formats(model: Model) -> dict[str, set[str]]:
    """GEMM -> dtypes that its tensors have, over all layers."""
    found: dict[str, set[str]] = {}
    for _, tensor in model.tensors():
        if tensor.gemm:
            found.setdefault(tensor.gemm, set()).add(tensor.format.dtype)
    return found


@pytest.mark.parametrize(
    ("model", "total_size"), [("gpt-oss-20b", 13_761_264_768), ("gpt-oss-120b", 65_248_815_744)]
)
def test_gpt_oss_has_the_bytes_of_its_index(model: str, total_size: int) -> None:
    """total_size of model.safetensors.index.json on the hub."""
    assert load(model).weight_bytes == total_size


def test_deepseek_r1_has_the_bytes_of_its_index_with_the_draft_head() -> None:
    """688,586,727,753 bytes on the hub. The draft comes with copies of embedding and head, and the
    router's biases are 32-bit."""
    model = load("deepseek-r1")
    copies = 2 * 2 * model.embedding.parameters
    total = model.weight_bytes + group_bytes(model.drafts) + copies
    assert total == pytest.approx(688_586_727_753, rel=5e-5)


def test_a_draft_head_is_a_layer_with_a_projection() -> None:
    """DeepSeek-V3's README: 11.5B parameters of its own beside embedding and head."""
    (draft,) = load("deepseek-r1").drafts
    assert draft.layers == (61,)
    parameters = sum(t.parameters for t in draft.tensors)
    assert parameters == pytest.approx(11.6e9, rel=0.01)
    assert sum(t.parameters for t in draft.tensors if t.gemm == "eh_proj") == 2 * 7168 * 7168


def test_kimi_k3_has_the_bytes_of_its_index_with_its_tower() -> None:
    """1,560,860,324,864 bytes on the hub: mxfp4 experts of a latent space, the rest in 16 bits."""
    model = load("kimi-k3")
    total = model.weight_bytes + sum(tower.bytes for tower in model.towers)
    assert total == pytest.approx(1_560_860_324_864, rel=5e-5)
    assert formats(model)["experts.gate_up_proj"] == {"mxfp4"}
    assert formats(model)["routed_expert_up_proj"] == {"bf16"}


def test_llama_405b_fp8_keeps_attention_and_two_mlps_in_16_bits() -> None:
    """vllm#6746: 57.75 GiB a GPU at TP=8, where KV heads and norms are copied to each."""
    model = load("meta-llama/Llama-3.1-405B-Instruct-FP8")
    assert model.weight_bytes / 8 / 2**30 == pytest.approx(57.75, rel=0.03)
    assert formats(model)["qkv_proj"] == {"bf16"}
    assert [group.count for group in model.groups] == [2, 124]
    assert model.groups[0].layers == (0, 125)
    attention = 126 * (2 * 16384 * 16384 + 2 * 1024 * 16384)
    mlp = 3 * 16384 * 53248
    scales = 4 * (2 * 53248 + 16384)  # one 32-bit scale for each output
    outside = 2 * 128256 * 16384 + (2 * 126 + 1) * 16384
    assert model.weight_bytes == 2 * (attention + 2 * mlp + outside) + 124 * (mlp + scales)


def test_qwen3_fp8_has_a_scale_for_each_block_of_128_by_128() -> None:
    model = load("Qwen/Qwen3-32B-FP8")
    mlp = next(t for _, t in model.tensors() if t.gemm == "down_proj")
    assert (mlp.rows, mlp.cols) == (5120, 25600)
    assert float(mlp.format.bytes_of(mlp.rows, mlp.cols)) == 5120 * 25600 + 4 * 40 * 200
    assert formats(model)["lm_head"] == {"bf16"}
    assert model.kv_dtype == "bf16"


def test_awq_has_a_scale_and_a_zero_point_for_each_group() -> None:
    model = load("Qwen/Qwen3-32B-AWQ")
    up = next(t for _, t in model.tensors() if t.name == "mlp.up_proj")
    groups = up.rows * up.cols / 128
    assert float(up.format.bytes_of(up.rows, up.cols)) == up.rows * up.cols / 2 + 2.5 * groups
    assert up.format.activations == "bf16"


def test_nvfp4_of_deepseek_leaves_attention_in_16_bits_and_asks_for_an_fp8_cache() -> None:
    model = load("nvidia/DeepSeek-R1-0528-FP4")
    assert formats(model)["experts.down_proj"] == {"nvfp4"}
    assert formats(model)["kv_b_proj"] == {"bf16"}
    assert model.kv_dtype == "fp8"


def test_deepseek_v4_has_fp4_experts_and_fp8_for_the_rest() -> None:
    found = formats(load("deepseek-v4-flash"))
    assert found["experts.gate_up_proj"] == {"mxfp4"}
    assert found["wq_b"] == {"fp8"}
    assert found["compressor"] == {"bf16"}


def test_a_name_that_ends_in_kv_has_an_fp8_cache() -> None:
    assert load("amd/Llama-3.1-70B-Instruct-FP8-KV").kv_dtype == "fp8"
    assert load("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8").kv_dtype == "bf16"


def test_an_unpublished_dtype_of_a_bundled_name_has_its_usual_form() -> None:
    model = load("amd/Llama-3.1-8B-Instruct-MXFP4")
    assert model.checkpoint_dtype == "mxfp4"
    assert formats(model)["lm_head"] == {"bf16"}


@pytest.mark.parametrize(
    ("model", "dtype", "checkpoint"),
    [
        ("qwen3-32b", "fp8", "Qwen/Qwen3-32B-FP8"),
        ("qwen3-32b", "int4", "Qwen/Qwen3-32B-AWQ"),
        ("qwen3-32b", "auto", "Qwen/Qwen3-32B"),
        ("qwen3-32b", "bf16", "Qwen/Qwen3-32B"),
        ("qwen3-235b-a22b", "fp4", "nvidia/Qwen3-235B-A22B-NVFP4"),
        ("gpt-oss-120b", "fp4", "openai/gpt-oss-120b"),
        ("deepseek-r1", "fp8", "deepseek-ai/DeepSeek-R1"),
        ("llama-2-7b", "fp8", None),
        ("no-such-model", "fp8", None),
    ],
)
def test_a_published_checkpoint_of_a_dtype_is_named(
    model: str, dtype: str, checkpoint: str | None
) -> None:
    assert published_checkpoint(model, dtype) == checkpoint


def test_every_published_checkpoint_loads_in_its_dtype() -> None:
    from shardwise.architecture.bundled import _published, bundled

    for model in bundled():
        assert published_id(model) is not None or model == "llama-51m"
        for dtype, checkpoint in _published(model).items():
            loaded = load(checkpoint["id"])
            stored, _, cache = dtype.partition("-")
            assert (loaded.id, loaded.checkpoint_dtype) == (model, stored), checkpoint
            assert cache == "" or loaded.kv_dtype == "fp8", checkpoint
