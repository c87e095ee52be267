"""Flags printed are the flags scored."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from shardwise.planner.command import checkpoint, engine_argv, note, replicas
from shardwise.planner.plan import plan


def flags(argv: tuple[str, ...]) -> dict[str, str]:
    return {a: b for a, b in pairwise(argv) if a.startswith("--")}


def test_vllm_flags_are_the_ones_scored(ask: Any) -> None:
    asked = ask(weight_dtype="fp8")
    d = plan(asked).best.deployment
    found = flags(
        engine_argv(d, asked.arch, asked.node.gpu, checkpoint("llama-3.1-70b", asked.arch))
    )
    assert found["--tensor-parallel-size"] == str(d.tp_size)
    assert found["--max-num-seqs"] == str(d.limits.max_num_seqs)
    assert found["--max-num-batched-tokens"] == "8192"
    assert found["--gpu-memory-utilization"] == "0.9"
    assert found["--max-model-len"] == "1280"  # 1024 + 256
    assert found["--quantization"] == "fp8"  # the hub's checkpoint is bf16


def test_a_checkpoint_already_in_fp8_is_not_quantized_again(ask: Any) -> None:
    name = "amd/Llama-3.1-70B-Instruct-FP8-KV"
    asked = ask(name)
    argv = engine_argv(
        plan(asked).best.deployment, asked.arch, asked.node.gpu, checkpoint(name, asked.arch)
    )
    assert name in argv
    assert "--quantization" not in argv


def test_nvfp4_needs_another_checkpoint_and_says_so(ask: Any) -> None:
    asked = ask("llama-3.1-70b", "b200")
    stored = checkpoint("llama-3.1-70b", asked.arch)
    assert "quantized to nvfp4" in note(stored, "nvfp4", "vllm")
    assert note(stored, "fp32", "builtin") == ""  # it converts while it loads


def test_each_replica_has_its_own_devices_and_port(ask: Any) -> None:
    asked = ask()
    d = next(c.deployment for c in plan(asked).ranked if c.deployment.tp_size == 2)
    made = replicas(d, asked.arch, asked.node.gpu, checkpoint("llama-3.1-70b", asked.arch))
    devices = [device for r in made for device in r.devices]
    assert devices == list(range(d.gpus))
    assert len({r.port for r in made}) == d.replicas
    assert made[0].line.startswith("HIP_VISIBLE_DEVICES=0,1")


def test_sglang_memory_share_leaves_out_activations_and_engine(ask: Any) -> None:
    asked = ask(engine="sglang")
    d = plan(asked).best.deployment
    found = flags(
        engine_argv(d, asked.arch, asked.node.gpu, checkpoint("llama-3.1-70b", asked.arch))
    )
    assert 0.5 < float(found["--mem-fraction-static"]) < d.limits.gpu_memory_utilization
    assert found["--max-running-requests"] == str(d.limits.max_num_seqs)


def test_the_builtin_engine_is_planned_by_tp_alone_in_the_checkpoints_dtype(ask: Any) -> None:
    asked = ask("llama-3.1-8b", "h200", engine="builtin")
    found = plan(asked)
    assert {c.deployment.pp_size for c in found.ranked} == {1}
    assert {c.deployment.dtypes.weight for c in found.ranked} == {"bf16"}
    assert any("shards by TP alone" in r.reason for r in found.rejected)
    d = found.best.deployment
    argv = engine_argv(d, asked.arch, asked.node.gpu, checkpoint("./m", asked.arch))
    said = flags(argv)
    assert argv[:3] == ("shardwise", "serve", "./m")
    assert said["--tensor-parallel-size"] == str(d.tp_size)
    assert said["--dtype"] == "bf16"
    # no more room than max_num_seqs of the longest sequences could use
    assert int(said["--kv-cache-tokens"]) <= d.limits.max_num_seqs * d.limits.max_model_len
    assert "--threads-per-rank" not in said  # a GPU's
