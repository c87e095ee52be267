"""Parameter counts against the published ones."""

from __future__ import annotations

import pytest

from shardwise.architecture.model import in_dtype, require_context
from shardwise.architecture.models import load
from shardwise.errors import InputError

#: "Model size" of each model's page on the Hugging Face hub, as the sum of its safetensors' shapes.
EXACT = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mistral-7b": 7_248_023_552,
    "mistral-small-24b": 23_572_403_200,
    "mistral-large-123b": 122_610_069_504,
    "mixtral-8x7b": 46_702_792_704,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize(("model", "published"), EXACT.items())
def test_total_is_the_published_count(model: str, published: int) -> None:
    assert load(model).parameters() == published


@pytest.mark.parametrize(
    ("model", "total", "active"),
    # gpt-oss model card, table 1: active counts the unembedding and not the embedding
    [("gpt-oss-120b", 116.83e9, 5.13e9), ("gpt-oss-20b", 20.91e9, 3.61e9)],
)
def test_gpt_oss_matches_its_model_card(model: str, total: float, active: float) -> None:
    found = load(model)
    assert found.parameters() == pytest.approx(total, abs=0.005e9)
    assert found.multiplied_parameters == pytest.approx(active, abs=0.005e9)


@pytest.mark.parametrize(
    ("model", "total_b", "active_b"),
    # the published figures are whole billions: DeepSeek-V3 report (without MTP), Qwen3 report
    [("deepseek-r1", 671, 37), ("qwen3-235b-a22b", 235, 22), ("mixtral-8x7b", 47, 13)],
)
def test_active_parameters_match_the_reports(model: str, total_b: int, active_b: int) -> None:
    found = load(model)
    assert found.parameters() / 1e9 == pytest.approx(total_b, abs=0.5)
    assert found.active_parameters / 1e9 == pytest.approx(active_b, abs=0.6)


def test_checkpoint_bytes_match_the_published_sizes() -> None:
    # gpt-oss model card: 60.8 GiB and 12.8 GiB
    assert load("gpt-oss-120b").weight_bytes / 2**30 == pytest.approx(60.8, rel=0.005)
    assert load("gpt-oss-20b").weight_bytes / 2**30 == pytest.approx(12.8, rel=0.005)
    # 70B in fp8: 68.45e9 linear weights of 1 byte, 2.10e9 embedding and lm_head of 2
    assert in_dtype(load("llama-3.1-70b"), "fp8").weight_bytes == pytest.approx(72.66e9, rel=1e-3)


def test_fp4_means_the_checkpoints_own_four_bits() -> None:
    assert in_dtype(load("gpt-oss-120b"), "fp4").checkpoint_dtype == "mxfp4"
    assert in_dtype(load("llama-3.1-70b"), "fp4").checkpoint_dtype == "nvfp4"
    with pytest.raises(InputError, match="fp7"):
        in_dtype(load("llama-3.1-70b"), "fp7")


def test_a_request_is_at_most_the_models_context() -> None:
    require_context(load("llama-3-8b"), 7168, 1024)
    with pytest.raises(InputError, match="8193 tokens; allowed: at most the 8192"):
        require_context(load("llama-3-8b"), 7169, 1024)
