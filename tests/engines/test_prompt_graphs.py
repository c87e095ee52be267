"""Which prompts run as piecewise CUDA graphs."""

from __future__ import annotations

import pytest

from shardwise.architecture.models import load
from shardwise.engines.device import device_of
from shardwise.engines.registry import get
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Layout

TP8 = Layout(tp_size=8)


def largest(
    engine: str, version: str, model: str, layout: Layout = TP8, gpu: str = "h100",
    drafts: bool = False,
) -> int:  # fmt: skip
    device = device_of(default_catalogue().gpu(gpu))
    graphs = get(engine).scheduling(device, version).prompt_graphs
    return graphs.tokens(load(model), layout, drafts=drafts)


def test_vllm_runs_longer_prompts_of_gpt_oss_as_graphs() -> None:
    assert largest("vllm", "0.15.1", "llama-3.1-70b") == 512
    assert largest("vllm", "0.15.1", "gpt-oss-120b") == 1024
    assert largest("vllm", "0.15.1", "llama-3.1-70b", drafts=True) == 512
    assert largest("vllm", "0.7.3", "llama-3.1-70b") == 0


def test_tensorrt_llm_launches_prompts_by_default() -> None:
    assert largest("trtllm", "", "gpt-oss-120b") == 0


def test_sglang_captures_prompts_from_0_5_10_on() -> None:
    assert largest("sglang", "0.5.9", "llama-3.1-70b") == 0
    assert largest("sglang", "0.5.10", "llama-3.1-70b") > 16384  # any prefill chunk
    assert largest("sglang", "0.5.10", "qwen3-30b-a3b") > 16384


@pytest.mark.parametrize(
    ("model", "layout", "gpu", "drafts"),
    [
        ("llama-3.1-70b", Layout(tp_size=1, attention_dp=8), "h100", False),
        ("llama-3.1-70b", Layout(tp_size=4, pp_size=2), "h100", False),
        ("llama-3.1-70b", TP8, "mi300x", False),
        ("llama-3.1-70b", TP8, "h100", True),
        ("deepseek-r1", TP8, "h200", False),  # MLA
        ("qwen3-next-80b-a3b", TP8, "h100", False),  # linear attention
        ("llama-4-scout", TP8, "h100", False),  # has a vision tower
        ("qwen3-30b-a3b", TP8, "b200", False),  # FlashInfer's experts
    ],
)
def test_what_not_all_sglang_releases_capture_counts_as_launched(
    model: str, layout: Layout, gpu: str, drafts: bool
) -> None:
    assert largest("sglang", "0.5.23", model, layout, gpu, drafts) == 0


def test_without_a_version_sglang_is_as_measured() -> None:
    assert largest("sglang", "", "llama-3.1-70b") == 0
