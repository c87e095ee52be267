"""Flags printed are the flags scored."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from shardwise.architecture.models import load
from shardwise.errors import InputError
from shardwise.hardware.catalogue import default_catalogue
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.planner.command import (
    Checkpoint,
    checkpoint,
    engine_command,
    environment,
    extra_flags,
    note,
    quantizes_online,
    replicas,
)
from shardwise.planner.plan import plan


def flags(argv: tuple[str, ...]) -> dict[str, str]:
    return {a: b for a, b in pairwise(argv) if a.startswith("--")}


def argv_of(asked: Any, d: Deployment, name: str) -> tuple[str, ...]:
    stored = checkpoint(name, asked.arch, d)
    return engine_command(d, asked.arch, asked.node.gpu, stored).argv


def test_vllm_flags_are_the_ones_scored(ask: Any) -> None:
    asked = ask(weight_dtype="fp8")
    d = plan(asked).best.deployment
    found = flags(argv_of(asked, d, "llama-3.1-70b"))
    assert found["--tensor-parallel-size"] == str(d.tp_size)
    assert found["--max-num-seqs"] == str(d.limits.max_num_seqs)
    assert found["--max-num-batched-tokens"] == "8192"
    assert found["--gpu-memory-utilization"] == "0.9"
    # twice 1024 + 256: requests are longer and shorter than their mean
    assert found["--max-model-len"] == "2560"


def test_what_follows_from_the_model_is_in_the_command_and_in_the_deployment_file() -> None:
    catalogue, limits = default_catalogue(), EngineLimits(max_num_seqs=4)
    h100, name = catalogue.gpu("h100"), "llama-3.1-8b"
    model, chosen = load(name), Deployment(name, "h100", Layout(8), limits)
    found = checkpoint(name, model, chosen)
    size = ("--max-cudagraph-capture-size", "512")  # at 4 sequences vLLM would capture 8 tokens
    assert size in pairwise(engine_command(chosen, model, h100, found).argv)
    assert size in pairwise(extra_flags(chosen, model, h100, found))
    mi300x, name = catalogue.gpu("mi300x"), "qwen3-30b-a3b"
    model, chosen = load(name), Deployment(name, "mi300x", Layout(2), limits)
    (replica,) = replicas(chosen, model, mi300x, checkpoint(name, model, chosen))
    assert replica.environment == {"VLLM_ROCM_USE_AITER": "1", "HIP_VISIBLE_DEVICES": "0,1"}
    assert environment(chosen, model, mi300x) == {"VLLM_ROCM_USE_AITER": "1"}


def test_a_checkpoint_already_in_fp8_is_not_quantized_again(ask: Any) -> None:
    name = "amd/Llama-3.1-70B-Instruct-FP8-KV"
    asked = ask(name)
    argv = argv_of(asked, plan(asked).best.deployment, name)
    assert name in argv
    assert "--quantization" not in argv


def test_a_published_checkpoint_of_the_scored_dtype_is_what_runs(ask: Any) -> None:
    asked = ask("qwen3-235b-a22b", "b200", weight_dtype="nvfp4")
    argv = argv_of(asked, plan(asked).best.deployment, "qwen3-235b-a22b")
    assert "nvidia/Qwen3-235B-A22B-NVFP4" in argv
    assert "--quantization" not in argv


def test_16_bits_are_quantized_to_fp8_while_they_load_where_no_checkpoint_is_published() -> None:
    found = Checkpoint("./my-model", "bf16")
    assert quantizes_online("vllm", found.dtype, "fp8")
    assert not quantizes_online("vllm", found.dtype, "nvfp4")
    assert not quantizes_online("builtin", found.dtype, "fp8")


def test_a_dtype_that_nobody_published_is_a_placeholder_and_says_so(ask: Any) -> None:
    asked = ask("smollm2-135m", "b200", weight_dtype="nvfp4")
    d = next(c.deployment for c in plan(asked).ranked)
    stored = checkpoint("smollm2-135m", asked.arch, d)
    assert stored.placeholder
    assert stored.path.startswith("YOUR-NVFP4-CHECKPOINT-OF-")
    assert "replace " in note(stored)


def test_tensorrt_llm_is_started_with_its_own_words_and_not_on_amd(ask: Any) -> None:
    asked = ask("llama-3.1-8b", "h200", engine="trtllm")
    d = plan(asked).best.deployment
    assert argv_of(asked, d, "llama-3.1-8b")[0] == "trtllm-serve"
    with pytest.raises(InputError, match="TensorRT-LLM does not run on amd"):
        plan(ask("llama-3.1-8b", "mi300x", engine="trtllm"))


def test_each_replica_has_its_own_devices_and_port(ask: Any) -> None:
    asked = ask()
    d = next(c.deployment for c in plan(asked).ranked if c.deployment.tp_size == 2)
    made = replicas(d, asked.arch, asked.node.gpu, checkpoint("llama-3.1-70b", asked.arch, d))
    devices = [device for r in made for device in r.devices]
    assert devices == list(range(d.gpus))
    assert len({r.port for r in made}) == d.replicas
    assert made[0].line.startswith("HIP_VISIBLE_DEVICES=0,1")


def test_sglang_is_started_with_the_memory_share_that_was_scored(ask: Any) -> None:
    asked = ask(engine="sglang")
    d = plan(asked).best.deployment
    found = flags(argv_of(asked, d, "llama-3.1-70b"))
    assert float(found["--mem-fraction-static"]) == d.limits.gpu_memory_utilization
    assert found["--max-running-requests"] == str(d.limits.max_num_seqs)


def test_the_builtin_engine_is_planned_by_tp_alone_in_the_checkpoints_dtype(ask: Any) -> None:
    asked = ask("llama-3.1-8b", "h200", engine="builtin")
    found = plan(asked)
    assert {c.deployment.pp_size for c in found.ranked} == {1}
    assert {c.deployment.dtypes.weight for c in found.ranked} == {"bf16"}
    assert any("no pipeline parallelism" in r.reason for r in found.rejected)
    d = found.best.deployment
    argv = engine_command(d, asked.arch, asked.node.gpu, Checkpoint("./m", "bf16")).argv
    said = flags(argv)
    assert argv[:3] == ("shardwise", "serve", "./m")
    assert said["--tensor-parallel-size"] == str(d.tp_size)
    assert said["--dtype"] == "bf16"
    # no more room than max_num_seqs of the longest sequences could use
    assert int(said["--kv-cache-tokens"]) <= d.limits.max_num_seqs * d.limits.max_model_len
    assert "--threads-per-rank" not in said  # a GPU's


def test_a_cache_dtype_that_nobody_asked_for_is_in_no_command(ask: Any) -> None:
    asked = ask("qwen3-235b-a22b", "b200", weight_dtype="nvfp4")  # its checkpoint asks for fp8
    best = plan(asked).best.deployment
    assert best.dtypes.kv == "fp8"
    assert "--kv-cache-dtype" not in argv_of(asked, best, "qwen3-235b-a22b")
    wanted = ask("llama-3.1-8b", "h200", kv_dtype="fp8")
    argv = argv_of(wanted, plan(wanted).best.deployment, "llama-3.1-8b")
    assert flags(argv)["--kv-cache-dtype"] == "fp8"
