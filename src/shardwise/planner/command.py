"""The exact command that starts a replica: its flags are the ones that were scored.

`replica.command` knows the flags, so what is shown here is what `shardwise up` runs.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardwise.architecture.model import Model
from shardwise.architecture.models import published_id
from shardwise.errors import InputError
from shardwise.hardware.gpu import Gpu
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.memory import plan as memory_plan
from shardwise.replica.command import MEMORY_SHARE, Settings, engine_flags

#: how a person starts each engine; the model follows
_STARTS: Final = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python", "-m", "sglang.launch_server", "--model-path"),
    "builtin": ("shardwise", "serve"),
}
_UNQUANTIZED = frozenset({"bf16", "fp16", "fp32"})


@dataclass(frozen=True)
class Checkpoint:
    """What the engine loads: a hub id or folder, and the dtype it is stored in."""

    path: str
    dtype: str


@dataclass(frozen=True)
class Replica:
    """One engine process: its devices, environment and arguments."""

    devices: tuple[int, ...]
    port: int
    environment: dict[str, str]
    argv: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command for a shell."""
        settings = " ".join(f"{k}={shlex.quote(v)}" for k, v in self.environment.items())
        return f"{settings} {shlex.join(self.argv)}".strip()


def checkpoint(given: str, arch: Model) -> Checkpoint:
    """The checkpoint that the model name `given` means. A bundled id means its hub repository."""
    path = Path(given).expanduser()
    if path.exists() and ("/" in given or path.is_file()):
        return Checkpoint(str(path.parent if path.is_file() else path), arch.checkpoint_dtype)
    if "/" not in given and (hub := published_id(arch.id)):
        from shardwise.architecture.models import load

        return Checkpoint(hub, load(arch.id).checkpoint_dtype)
    return Checkpoint(given, arch.checkpoint_dtype)


def note(found: Checkpoint, weight_dtype: str, engine: str) -> str:
    """What the user must supply for the command to run as scored, or ""."""
    if weight_dtype == found.dtype or quantizes_online(found, weight_dtype):
        return ""
    if engine == "builtin":  # its --dtype converts while it loads
        return ""
    return (
        f"{found.path} is stored in {found.dtype}: give a checkpoint quantized to "
        f"{weight_dtype} in its place"
    )


def engine_argv(
    deployment: Deployment, arch: Model, gpu: Gpu, found: Checkpoint, port: int = 8000
) -> tuple[str, ...]:
    """Arguments that start one replica of `deployment`. InputError for an unknown engine."""
    if deployment.engine not in _STARTS:
        raise InputError(f"engine {deployment.engine!r}", f"allowed: {', '.join(_STARTS)}")
    extra = extra_flags(deployment, arch, gpu, found)
    settings = Settings(
        model=found.path,
        engine=deployment.engine,
        tp_size=deployment.tp_size,
        pp_size=deployment.pp_size,
        kv_dtype=deployment.dtypes.kv,
        expert_parallel=deployment.layout.expert_parallel,
        max_num_seqs=deployment.limits.max_num_seqs,
        max_num_batched_tokens=deployment.limits.max_num_batched_tokens,
        gpu_memory_utilization=deployment.limits.gpu_memory_utilization,
        max_model_len=deployment.limits.max_model_len,
        flags=extra,
    )
    flags = (*engine_flags(settings, "cpu" if gpu.vendor == "cpu" else "cuda"), *extra)
    address = ("--host", "127.0.0.1", "--port", str(port))
    return (*_STARTS[deployment.engine], found.path, *flags, *address)


def extra_flags(
    deployment: Deployment, arch: Model, gpu: Gpu, found: Checkpoint
) -> tuple[str, ...]:
    """Flags that only the model and GPU tell: quantization while loading; SGLang's share of
    memory, which is of weights and KV cache alone where vLLM's holds activations as well; the
    built-in engine's room for KV cache, its dtype, and on CPU the threads that were measured."""
    flags = ["--quantization", "fp8"] if quantizes_online(found, deployment.dtypes.weight) else []
    if deployment.engine == "sglang":
        memory = memory_plan(
            arch, gpu, deployment, deployment.limits.max_model_len or arch.max_context
        )
        static = (memory.weight_bytes + memory.kv_budget_bytes) / memory.memory_bytes
        flags += [MEMORY_SHARE, f"{static:.3f}"]
    if deployment.engine == "builtin":
        longest = deployment.limits.max_model_len or arch.max_context
        room = memory_plan(arch, gpu, deployment, longest).kv_capacity_tokens
        # a batch of the longest sequences is all it can use
        flags += ["--kv-cache-tokens", str(min(room, deployment.limits.max_num_seqs * longest))]
        flags += ["--dtype", deployment.dtypes.weight]
        if gpu.vendor == "cpu":
            flags += ["--threads-per-rank", str(gpu.num_compute_units)]
    return tuple(flags)


def replicas(
    deployment: Deployment,
    arch: Model,
    gpu: Gpu,
    found: Checkpoint,
    first_device: int = 0,
    first_port: int = 8000,
) -> tuple[Replica, ...]:
    """One process a replica, each with its own contiguous devices and port."""
    width = deployment.tp_size * deployment.pp_size
    variable = "HIP_VISIBLE_DEVICES" if gpu.vendor == "amd" else "CUDA_VISIBLE_DEVICES"
    made = []
    for i in range(deployment.replicas):
        devices = tuple(range(first_device + i * width, first_device + (i + 1) * width))
        port = first_port + i
        argv = engine_argv(deployment, arch, gpu, found, port)
        visible = {} if gpu.vendor == "cpu" else {variable: ",".join(map(str, devices))}
        made.append(Replica(devices, port, visible, argv))
    return tuple(made)


def quantizes_online(found: Checkpoint, weight_dtype: str) -> bool:
    """Engines quantize 16-bit weights to fp8 while they load; to nothing else."""
    return weight_dtype == "fp8" and found.dtype in _UNQUANTIZED
