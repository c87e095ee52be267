"""Every start-up sample is read to the facts that its index states."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from tests.node.samples import FOLDER, needs_samples, reading

from shardwise.node.reading.startup import Startup

GIB = 2.0**30
pytestmark = needs_samples

#: file -> what each start in it says; sizes in GiB.
FACTS: dict[str, list[dict[str, Any]]] = {
    "vllm020fork_glm51_nvfp4_tp8_rtxpro6000": [
        {
            "weights": 55.67, "kv": 19.55, "kv_tokens": 341504, "concurrency": 1.68,
            "concurrency_len": 202752, "max_model_len": 202752, "graphs": 1.22, "estimate": 4.77,
            "graph_estimate_deducted": False, "gpu_memory_utilization": 0.865, "kv_dtype": "fp8",
            "tp_size": 8, "custom_all_reduce": True, "version": "0.20.2rc1.dev249+custom",
            "model": "lukealonso/GLM-5.1-NVFP4-MTP", "tokens_follow_concurrency": True,
        }
    ],
    "vllm021_dsv4flash_tp2_2nodes_gb10": [
        {
            "weights": 75.86, "kv": 18.65, "kv_tokens": 1001650, "concurrency": 5.01,
            "concurrency_len": 200000, "max_model_len": 200000, "tp_size": 2, "nodes": 2,
            "gpu_memory_utilization": 0.8, "graphs": 0.34, "estimate": 0.55,
            "graph_estimate_deducted": True, "all_reduce": ("PYNCCL",),
            "custom_all_reduce": False, "tokens_follow_concurrency": True,
        }
    ],
    "vllm020_qwen36_35b_a3b_nvfp4_tp1_doubletime": [
        {
            "weights": 21.86, "kv": 2.95, "kv_tokens": 75456, "concurrency": 3.87,
            "concurrency_len": 65536, "graphs": 0.73, "estimate": 0.36,
            "gpu_memory_utilization": 0.9, "tokens_follow_concurrency": False,
            "total": (31.58, 0.1), "graph_estimate_deducted": True,
        }
    ],
    "vllm0251_qwen27b_fp8_tp2_rtx3090_p2p": [
        {
            "weights": None, "kv": 10.86, "kv_tokens": 612157, "concurrency": 2.34,
            "concurrency_len": 262144, "tokens_follow_concurrency": True,
        }
    ],
    "vllm_v100x4_tp4_journald_russian": [
        {"kv": 5.35, "kv_tokens": 215401, "concurrency": 26.29, "concurrency_len": 8192}
    ],
    "vllm_omni_process_scoped": [
        {"kv": 37.18, "kv_tokens": 1949520, "concurrency": 29.75, "concurrency_len": 65536}
    ],
    "vllm_gguf_qwen35_blocks_override_0": [
        {
            "kv": 6.9, "kv_tokens": 89760, "concurrency": 1.36, "concurrency_len": 262144,
            "tokens_follow_concurrency": False, "estimate": 1.62, "total": (23.5, 0.1),
            "graph_estimate_deducted": False, "blocks_override": 512,
            "gpu_memory_utilization": 0.9,
        }
    ],
    "vllm085_qwen3moe_tp4_compose_prefix_oom": [
        {"weights": 14.2474, "processes": 4, "tp_ranks": (0, 1, 2, 3), "tp_at_least": 4}
    ],
    "vllm08_phi4_bnb_v0": [
        {
            "weights": 8.63, "activation": 1.16, "non_torch": (0.09, 0.09), "kv": 45.21,
            "kv_tokens": 237040, "block_tokens": 16, "concurrency": 462.97, "concurrency_len": 512,
            "total": (79.15, 0.01), "gpu_memory_utilization": 0.70, "graphs": 1.12,
        }
    ],
    "vllm06_llama3_8b_tp2_memory_table": [
        {
            "weights": 14.96, "non_torch": (1.79, 1.79), "activation": 1.26, "kv": 53.29,
            "total": (79.22, 0.01), "model": "meta-llama/Meta-Llama-3-8B", "tp_at_least": 1,
        },
        {"weights": 7.48, "non_torch": (3.58, 3.58), "activation": 1.26, "kv": None, "tp_size": 2},
    ],
    "vllm063_tp4_max_len_error": [
        {
            "weights": 3.7710, "processes": 4, "kv_tokens": 86432, "max_model_len": 131072,
            "failure": "max_model_len 131072", "fits": 86432,
        }
    ],
    "vllm_v0_deepseek_r1_tp8pp2_ray_h20": [
        {
            "weights": 39.66, "non_torch": (2.53, 2.57), "activation": 0.24, "kv": 97.29,
            "gpu_memory_utilization": 1.00, "total": (139.72, 0.01), "gpu": "NVIDIA_H20-3e",
        }
    ],
    "vllm09_qwen25vl7b_awq_negative_kv": [
        {
            "weights": 6.5935, "non_torch": (8.29, 8.29), "activation": 4.93, "kv": -7.83,
            "failure": "no memory is left",
        },
        {"weights": 6.4689, "non_torch": (-0.05, -0.05), "activation": 4.92, "failure": None},
    ],
    "vllm_fp8kv_kv_needed": [
        {"kv": 10.55, "kv_tokens": 230528, "concurrency": 2.31, "max_model_len": 100000,
         "failure": None},
        {"kv": 5.59, "max_model_len": 221000, "failure": "221000", "needed": 10.12, "fits": 122080},
    ],
    "sglang_kimi_k25_tp8_rocm_capture_crash": [
        {
            "weights": 73.58, "kv": 160.63, "kv_tokens": 2454421, "left": 45.24,
            "tp_at_least": 8, "total": (283.68, 0.1), "failure": "while graphs were captured",
            "kv_dtype": "bfloat16",
        }
    ],
    "sglang_qwen3omni30b_tp4": [
        {"kv": 47.84, "kv_tokens": 2090351, "left": 12.45, "tp_at_least": 4}
    ],
    "sglang_gemma3_tp0_2025_03": [
        {
            "weights": 8.13, "kv": 108.24, "kv_tokens": 834615, "tp_size": None, "tp_at_least": 1,
            "graph_avail": (13.95, 9.72), "graphs": 4.23,
        }
    ],
    "sglang_deepseek_r1_dp8_rocm_negative": [
        {
            "weights": 166.59, "left": 21.73, "kv_tokens": -561981, "failure": "no memory is left",
            "total": (188.32, 0.01), "tp_at_least": 8, "attention_dp": 8,
        }
    ],
    "both_qwen3_235b_fp8_tp4_h100": [
        {"engine": "vllm", "kv": 8.11, "kv_tokens": 178880, "tp_size": 4},
        {"engine": "sglang", "kv": 16.46, "kv_tokens": 367404, "tp_size": 4,
         "mem_fraction_static": 0.93},
    ],
}  # fmt: skip

_SIZES = {
    "weights": "weights_bytes", "kv": "kv_bytes", "graphs": "graph_bytes", "left": "left_bytes",
    "estimate": "graph_estimate_bytes", "activation": "activation_bytes",
}  # fmt: skip


def check(start: Startup, name: str, expected: Any) -> None:
    if name in _SIZES:
        found = getattr(start, _SIZES[name])
        assert (found is None) == (expected is None), name
        assert expected is None or found / GIB == pytest.approx(expected, abs=0.01), name
    elif name == "total":
        assert start.total_bytes is not None
        assert start.total_bytes / GIB == pytest.approx(expected[0], abs=expected[1])
    elif name == "non_torch":
        assert start.non_torch_bytes is not None
        assert [x / GIB for x in start.non_torch_bytes] == pytest.approx(list(expected), abs=0.001)
    elif name == "graph_avail":
        assert start.graph_avail_bytes is not None
        assert [x / GIB for x in start.graph_avail_bytes] == pytest.approx(list(expected))
    elif name in ("needed", "fits"):
        assert start.failure is not None
        if name == "fits":
            assert start.failure.max_model_len == expected
        else:
            assert start.failure.needed_bytes is not None
            assert start.failure.needed_bytes / GIB == pytest.approx(expected)
    elif name == "failure":
        assert (start.failure is None) == (expected is None)
        assert expected is None or (start.failure and expected in start.failure.what)
    elif name == "gpu":
        assert start.said["gpu"] == expected
    elif name == "mem_fraction_static":
        assert start.args[name] == expected
    else:
        assert getattr(start, name) == expected, name


def test_every_startup_sample_has_its_facts() -> None:
    with (FOLDER / "index.csv").open(encoding="utf-8", newline="") as handle:
        listed = [row["file"] for row in csv.DictReader(handle)]
    assert {f"startup/{name}.txt" for name in FACTS} == {
        name for name in listed if name.startswith("startup/")
    }


@pytest.mark.parametrize("name", FACTS)
def test_the_sample_is_read_to_its_facts(name: str) -> None:
    found = reading(f"startup/{name}.txt")
    assert len(found.startups) == len(FACTS[name])
    for start, facts in zip(found.startups, FACTS[name], strict=True):
        for fact, expected in facts.items():
            check(start, fact, expected)
    assert found.node is None  # no line of a start-up is a topology's
    assert not found.problems


def test_both_starts_of_one_model_have_the_same_bytes_a_token() -> None:
    """10.55 GiB / 230528 tokens = 10.12 GiB / 221000 tokens = 48 KiB."""
    up, refused = reading("startup/vllm_fp8kv_kv_needed.txt").startups
    assert up.kv_bytes is not None
    assert up.kv_tokens is not None
    assert refused.failure is not None
    assert refused.failure.needed_bytes is not None
    assert up.kv_bytes / up.kv_tokens == pytest.approx(48 * 1024, rel=0.001)
    assert refused.failure.needed_bytes / 221000 == pytest.approx(48 * 1024, rel=0.001)


def test_an_api_key_in_the_arguments_is_dropped() -> None:
    (start,) = reading("startup/vllm021_dsv4flash_tp2_2nodes_gb10.txt").startups
    assert "api_key" not in start.args
    assert "REDACTED" not in repr(start)
