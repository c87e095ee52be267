"""What a command states so that an engine runs a model as predicted."""

from __future__ import annotations

import pytest

from shardwise.architecture.models import load
from shardwise.engines.device import device_of
from shardwise.engines.facts import Settings
from shardwise.engines.registry import get
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.layout.speculation import Speculation


def settings(
    engine: str, model: str, gpu: str = "h100", version: str = "", seqs: int = 256,
    drafted: int = 0, tokens: int = 8192, tp: int = 8,
) -> Settings:  # fmt: skip
    asked = Deployment(
        model,
        gpu,
        Layout(tp),
        EngineLimits(seqs, tokens),
        engine=engine,
        engine_version=version,
        speculation=Speculation.parse(f"mtp:{drafted}") if drafted else None,
    )
    return get(engine).settings(load(model), asked, device_of(default_catalogue().gpu(gpu)))


@pytest.mark.parametrize(
    ("version", "seqs", "drafted", "tokens", "flags"),
    [
        # vLLM itself captures steps of up to min(2 x 16, 512) tokens
        ("", 16, 0, 8192, ("--max-cudagraph-capture-size", "512")),
        ("0.13.0", 16, 0, 8192, ("--max-cudagraph-capture-size", "512")),
        ("0.11.0", 16, 0, 8192, ("--cuda-graph-sizes", "512")),
        ("0.9.2", 16, 0, 8192, ()),  # always captures 512
        ("", 16, 0, 256, ("--max-cudagraph-capture-size", "256")),
        ("", 256, 0, 8192, ()),
        ("", 64, 3, 8192, ()),  # 2 x 64 x (1 + 3)
        ("", 63, 3, 8192, ("--max-cudagraph-capture-size", "512")),
    ],
)
def test_vllm_keeps_graphs_for_prompts_at_few_sequences(
    version: str, seqs: int, drafted: int, tokens: int, flags: tuple[str, ...]
) -> None:
    found = settings("vllm", "llama-3.1-8b", "h100", version, seqs, drafted, tokens)
    assert found == Settings(flags)


@pytest.mark.parametrize("version", ["", "0.15.1", "0.11.0", "0.10.1"])
def test_vllm_captures_prompts_of_gpt_oss_whatever_the_number_of_sequences(version: str) -> None:
    assert "size" not in " ".join(settings("vllm", "gpt-oss-120b", "h100", version, 4).flags)


def test_gpt_oss_runs_with_the_kernels_of_its_rows() -> None:
    """InferenceX: VLLM_MXFP4_USE_MARLIN on H100 and H200, ..._MXFP4_MXFP8 on B200."""
    marlin, inputs = "VLLM_MXFP4_USE_MARLIN", "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8"
    assert settings("vllm", "gpt-oss-120b", "h200", "0.18.0").environment == {marlin: "1"}
    assert settings("vllm", "gpt-oss-120b", "b200", "0.18.0").environment == {inputs: "1"}
    # pull/44992 removed the variables
    assert settings("vllm", "gpt-oss-120b", "h200").flags == ("--moe-backend", "marlin")
    assert settings("vllm", "gpt-oss-120b", "b200").flags == (
        "--quantization-config",
        '{"moe":{"activation":"mxfp8"}}',
    )
    assert settings("vllm", "gpt-oss-120b", "a100-80gb") == Settings()


def test_vllm_runs_experts_on_amd_with_aiter_and_dense_models_without() -> None:
    found = settings("vllm", "qwen3-30b-a3b", "mi300x")
    assert found.environment == {"VLLM_ROCM_USE_AITER": "1"}
    assert settings("vllm", "llama-3.1-70b", "mi300x") == Settings()
    assert settings("vllm", "qwen3-30b-a3b", "h100") == Settings()


@pytest.mark.parametrize(
    ("gpu", "tp", "seqs", "version", "flags"),
    [
        # the largest graph by default: 48 sequences below 35 GiB, 256 below TP=4, 512 from there
        ("rtx-4090", 1, 64, "", ("--cuda-graph-max-bs-decode", "64")),
        ("rtx-4090", 1, 48, "", ()),
        ("rtx-4090", 1, 48, "0.5.9", ("--cuda-graph-max-bs", "48")),  # 24
        ("h100", 1, 504, "", ("--cuda-graph-max-bs-decode", "504")),
        ("h100", 4, 504, "", ()),
    ],
)
def test_sglang_decodes_every_batch_with_a_graph(
    gpu: str, tp: int, seqs: int, version: str, flags: tuple[str, ...]
) -> None:
    found = settings("sglang", "llama-3.1-8b", gpu, version, seqs, tp=tp)
    assert found == Settings(flags)


def test_other_engines_need_no_settings() -> None:
    for engine in ("trtllm", "atom", "builtin"):
        assert settings(engine, "llama-3.1-8b", seqs=8) == Settings()
