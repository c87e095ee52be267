"""What runs for each replica: command line, environment and devices."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from typing import Final

from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, first_ports

#: The variable that marks every process of a deployment, so that `down` finds them all.
MARK: Final = "SHARDWISE_DEPLOYMENT"
KV_DTYPE_FLAGS: Final = {"bf16": "bfloat16"}


@dataclass(frozen=True)
class Launch:
    """One replica: `argv` runs with `env` added to ours, on `devices`."""

    replica: str  #: "model/0"
    model: ModelTable
    host: str
    port: int
    devices: tuple[int, ...]
    kind: str  #: cpu, cuda or rocm
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def spec(self) -> str:
        """A digest that changes when the replica has to be restarted for a changed file."""
        parts = (self.argv, sorted(self.env.items()), self.devices, self.kind)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def launches(file: DeploymentFile, kind: str, host: str = "127.0.0.1") -> list[Launch]:
    """Every replica of the file. Replicas listen on `host`; only the balancer is reached from out.

    Without `devices` in the file, GPUs are dealt in order; CPU replicas are not pinned.
    """
    made, next_gpu = [], 0
    for model, first in zip(file.models, first_ports(file), strict=True):
        for index in range(model.replicas):
            devices: tuple[int, ...] = ()
            if model.devices:
                devices = tuple(model.devices[index])
            elif kind != "cpu":
                devices = tuple(range(next_gpu, next_gpu + model.devices_per_replica))
                next_gpu += len(devices)
            port = first + index
            made.append(
                Launch(
                    f"{model.served_name}/{index}",
                    model,
                    host,
                    port,
                    devices,
                    kind,
                    tuple(argv(model, host, port, kind)),
                    {**device_env(model, devices, kind), **model.env},
                )
            )
    return made


def argv(model: ModelTable, host: str, port: int, kind: str) -> list[str]:
    """The engine's command line, `flags` last."""
    if model.engine == "command":
        values = {"{host}": host, "{port}": str(port), "{model}": model.model}
        return [_filled(part, values) for part in model.command] + model.flags
    python = model.python or sys.executable
    address = ["--host", host, "--port", str(port), "--served-model-name", model.served_name]
    engine = {"vllm": _vllm, "sglang": _sglang, "builtin": _builtin}[model.engine]
    return [python, "-m", *engine(model, kind), *address, *model.flags]


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _vllm(model: ModelTable, kind: str) -> list[str]:
    """https://docs.vllm.ai/en/latest/cli/serve.html"""
    line = ["vllm.entrypoints.openai.api_server", "--model", model.model]
    line += ["--tensor-parallel-size", str(model.tp_size)]
    if model.pp_size > 1:
        line += ["--pipeline-parallel-size", str(model.pp_size)]
    if model.expert_parallel:
        line += ["--enable-expert-parallel"]
    if model.kv_dtype != "auto":
        line += ["--kv-cache-dtype", KV_DTYPE_FLAGS.get(model.kv_dtype, model.kv_dtype)]
    if model.max_model_len:
        line += ["--max-model-len", str(model.max_model_len)]
    line += ["--max-num-seqs", str(model.max_num_seqs)]
    if model.task == "generate":
        line += ["--max-num-batched-tokens", str(model.max_num_batched_tokens)]
    if kind != "cpu":
        line += ["--gpu-memory-utilization", f"{model.gpu_memory_utilization:g}"]
    return line


def _sglang(model: ModelTable, kind: str) -> list[str]:
    """https://docs.sglang.ai/advanced_features/server_arguments.html"""
    line = ["sglang.launch_server", "--model-path", model.model]
    line += ["--tp-size", str(model.tp_size)]
    if model.pp_size > 1:
        line += ["--pp-size", str(model.pp_size)]
    if model.expert_parallel:
        line += ["--ep-size", str(model.tp_size)]
    if model.kv_dtype == "fp8":
        line += ["--kv-cache-dtype", "fp8_e4m3"]
    if model.max_model_len:
        line += ["--context-length", str(model.max_model_len)]
    line += ["--max-running-requests", str(model.max_num_seqs)]
    line += ["--chunked-prefill-size", str(model.max_num_batched_tokens)]
    line += ["--mem-fraction-static", f"{model.gpu_memory_utilization:g}", "--enable-metrics"]
    return [*line, "--device", "cpu"] if kind == "cpu" else line


def _builtin(model: ModelTable, kind: str) -> list[str]:
    line = ["shardwise.cli.main", "serve", model.model]
    line += ["--tensor-parallel-size", str(model.tp_size)]
    line += ["--device", "cpu" if kind == "cpu" else "cuda"]
    if model.max_model_len:
        line += ["--max-model-len", str(model.max_model_len)]
    line += ["--max-num-seqs", str(model.max_num_seqs)]
    return [*line, "--max-num-batched-tokens", str(model.max_num_batched_tokens)]


def device_env(model: ModelTable, devices: tuple[int, ...], kind: str) -> dict[str, str]:
    """Variables that show a replica its own devices and no others."""
    listed = ",".join(map(str, devices))
    if kind == "cuda":
        return {"CUDA_VISIBLE_DEVICES": listed}
    if kind == "rocm":
        return {"HIP_VISIBLE_DEVICES": listed}
    if model.engine == "vllm":
        # with TP > 1 vLLM's CPU workers ask NUMA nodes unless each rank has its cores named
        cores = devices or tuple(sorted(os.sched_getaffinity(0)))
        share = max(1, len(cores) // model.tp_size)
        ranks = [
            [cores[(rank * share + i) % len(cores)] for i in range(share)]
            for rank in range(model.tp_size)
        ]
        bind = "|".join(",".join(map(str, rank)) for rank in ranks)
        return {"VLLM_CPU_OMP_THREADS_BIND": bind}
    if devices:
        return {"OMP_NUM_THREADS": str(max(1, len(devices) // model.tp_size))}
    return {}
