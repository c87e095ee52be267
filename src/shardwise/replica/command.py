"""One replica's command line and environment, for every engine: the one place that knows flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

KV_DTYPE_FLAGS: Final = {"bf16": "bfloat16"}  #: vLLM's
_SGLANG_KV: Final = {"fp8": "fp8_e4m3"}
MEMORY_SHARE: Final = "--mem-fraction-static"  #: SGLang's, of weights and KV cache alone
#: each engine's module, with the option that its model follows
_LOADS: Final = {
    "vllm": ("vllm.entrypoints.openai.api_server", "--model"),
    "sglang": ("sglang.launch_server", "--model-path"),
    "builtin": ("shardwise.cli.main", "serve"),
}


class EngineSettings(Protocol):
    """What an engine's command line is made from. A deployment file's table is one."""

    @property
    def model(self) -> str: ...
    @property
    def served_name(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def tp_size(self) -> int: ...
    @property
    def pp_size(self) -> int: ...
    @property
    def kv_dtype(self) -> str: ...
    @property
    def expert_parallel(self) -> bool: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...
    @property
    def gpu_memory_utilization(self) -> float: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def flags(self) -> Sequence[str]: ...
    @property
    def command(self) -> Sequence[str]: ...
    @property
    def python(self) -> str: ...


@dataclass(frozen=True)
class Settings:
    """The settings of one engine started by itself, without a deployment file."""

    model: str  #: what the engine loads: Hugging Face id, folder or file
    engine: str
    tp_size: int = 1
    pp_size: int = 1
    kv_dtype: str = "auto"
    expert_parallel: bool = False
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    max_model_len: int = 0
    flags: tuple[str, ...] = ()
    python: str = ""  #: interpreter of the engine's own environment; empty: this one
    env: Mapping[str, str] = field(default_factory=dict)
    task: str = "generate"
    command: tuple[str, ...] = ()

    @property
    def served_name(self) -> str:
        return Path(self.model).name.removesuffix(".gguf")


def argv(model: EngineSettings, host: str, port: int, kind: str) -> list[str]:
    """The engine's command line, `flags` last."""
    if model.engine == "command":
        values = {"{host}": host, "{port}": str(port), "{model}": model.model}
        return [_filled(part, values) for part in model.command] + [*model.flags]
    python = model.python or sys.executable
    address = ["--host", host, "--port", str(port), "--served-model-name", model.served_name]
    loads = [*_LOADS[model.engine], model.model]
    return [python, "-m", *loads, *engine_flags(model, kind), *address, *model.flags]


def engine_flags(model: EngineSettings, kind: str) -> list[str]:
    """The flags that `model`'s settings mean to its engine, on devices of a kind."""
    engine = {"vllm": _vllm, "sglang": _sglang, "builtin": _builtin}[model.engine]
    return engine(model, kind)


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _vllm(model: EngineSettings, kind: str) -> list[str]:
    """https://docs.vllm.ai/en/latest/cli/serve.html"""
    line = ["--tensor-parallel-size", str(model.tp_size)]
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


def _sglang(model: EngineSettings, kind: str) -> list[str]:
    """https://docs.sglang.ai/advanced_features/server_arguments.html"""
    line = ["--tp-size", str(model.tp_size)]
    if model.pp_size > 1:
        line += ["--pp-size", str(model.pp_size)]
    if model.expert_parallel:
        line += ["--ep-size", str(model.tp_size)]
    if model.kv_dtype != "auto":
        line += ["--kv-cache-dtype", _SGLANG_KV.get(model.kv_dtype, model.kv_dtype)]
    if model.max_model_len:
        line += ["--context-length", str(model.max_model_len)]
    line += ["--max-running-requests", str(model.max_num_seqs)]
    line += ["--chunked-prefill-size", str(model.max_num_batched_tokens)]
    if MEMORY_SHARE not in model.flags:
        line += [MEMORY_SHARE, f"{model.gpu_memory_utilization:g}"]
    line += ["--enable-metrics"]
    return [*line, "--device", "cpu"] if kind == "cpu" else line


def _builtin(model: EngineSettings, kind: str) -> list[str]:
    line = ["--tensor-parallel-size", str(model.tp_size)]
    line += ["--device", "cpu" if kind == "cpu" else "cuda"]
    if model.max_model_len:
        line += ["--max-model-len", str(model.max_model_len)]
    line += ["--max-num-seqs", str(model.max_num_seqs)]
    return [*line, "--max-num-batched-tokens", str(model.max_num_batched_tokens)]


def device_env(model: EngineSettings, devices: tuple[int, ...], kind: str) -> dict[str, str]:
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
