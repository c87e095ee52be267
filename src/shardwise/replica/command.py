"""One replica's command line and environment. `shardwise.engines` knows the flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from shardwise.engines import Device, Launch, get
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, Layout

MEMORY_SHARE: Final = "--mem-fraction-static"  #: SGLang's, of weights and KV cache alone
#: kind of device -> what an engine's flags depend on
_DEVICES: Final = {"cuda": Device("nvidia"), "rocm": Device("amd"), "cpu": Device("cpu")}


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
    launch = replace(_launch(model), served_name=model.served_name, host=host, port=port)
    python = model.python or sys.executable
    engine = get(model.engine)
    started = engine.module_command(python, _deployment(model), launch, _DEVICES[kind])
    if started.files:
        raise InputError(
            f"{engine.title} takes these settings from a file",
            remedy=f'write {started.files[0].name} yourself and start it with engine = "command"',
        )
    return [*_without_repeats(started.argv, model.flags), *model.flags]


def engine_flags(model: EngineSettings, kind: str) -> list[str]:
    """The flags that `model`'s settings mean to its engine, on devices of a kind."""
    flags = get(model.engine).arguments(_deployment(model), _launch(model), _DEVICES[kind])
    return _without_repeats(flags, model.flags)


def _launch(model: EngineSettings) -> Launch:
    return Launch(model.model, embeds=model.task != "generate")


def _deployment(model: EngineSettings) -> Deployment:
    """The settings as a deployment. Its weights are the checkpoint's: `flags` say otherwise."""
    return Deployment(
        model=model.model,
        gpu="",
        layout=Layout(
            tp_size=model.tp_size,
            pp_size=model.pp_size,
            ep_size=model.tp_size if model.expert_parallel else 1,
        ),
        limits=EngineLimits(
            max_num_seqs=model.max_num_seqs,
            max_num_batched_tokens=model.max_num_batched_tokens,
            gpu_memory_utilization=model.gpu_memory_utilization,
            max_model_len=model.max_model_len,
        ),
        dtypes=Dtypes(kv=model.kv_dtype),
        engine=model.engine,
    )


def _without_repeats(words: Sequence[str], given: Sequence[str]) -> list[str]:
    """`words` without the memory share where `given` has it."""
    if MEMORY_SHARE not in given or MEMORY_SHARE not in words:
        return [*words]
    at = list(words).index(MEMORY_SHARE)
    return [*words[:at], *words[at + 2 :]]


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


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
