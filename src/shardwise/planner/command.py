"""The exact command that starts a replica: its flags are the ones that were scored.

Flags: docs.vllm.ai "vllm serve"; docs.sglang.io "Server Arguments"; docs/howto/serve.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwise.architecture.model import Architecture
from shardwise.architecture.models import published_id
from shardwise.errors import InputError
from shardwise.evidence.record import Deployment
from shardwise.hardware.gpu import Gpu
from shardwise.perfmodel.memory import plan as memory_plan

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


def checkpoint(given: str, arch: Architecture) -> Checkpoint:
    """The checkpoint that the model name `given` means. A bundled id means its hub repository."""
    path = Path(given).expanduser()
    if path.exists() and ("/" in given or path.is_file()):
        return Checkpoint(str(path.parent if path.is_file() else path), arch.checkpoint_dtype)
    if "/" not in given and (hub := published_id(arch.id)):
        from shardwise.architecture.models import load

        return Checkpoint(hub, load(arch.id).checkpoint_dtype)
    return Checkpoint(given, arch.checkpoint_dtype)


def note(found: Checkpoint, weight_dtype: str, engine: str = "vllm") -> str:
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
    deployment: Deployment, arch: Architecture, gpu: Gpu, found: Checkpoint, port: int = 8000
) -> tuple[str, ...]:
    """Arguments that start one replica of `deployment`. InputError for an unknown engine."""
    builders = {"vllm": _vllm, "sglang": _sglang, "builtin": _builtin}
    if deployment.engine not in builders:
        raise InputError(f"engine {deployment.engine!r}", f"allowed: {', '.join(builders)}")
    argv = [*builders[deployment.engine](deployment, arch, gpu, found)]
    if quantizes_online(found, deployment.weight_dtype):
        argv += ["--quantization", "fp8"]
    return (*argv, "--host", "127.0.0.1", "--port", str(port))


def replicas(
    deployment: Deployment,
    arch: Architecture,
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


def _vllm(d: Deployment, arch: Architecture, gpu: Gpu, found: Checkpoint) -> Sequence[str]:  # noqa: ARG001
    return (
        *("vllm", "serve", found.path),
        *("--tensor-parallel-size", str(d.tp_size)),
        *("--pipeline-parallel-size", str(d.pp_size)),
        *(("--enable-expert-parallel",) if d.expert_parallel else ()),
        *("--max-num-seqs", str(d.max_num_seqs)),
        *("--max-num-batched-tokens", str(d.max_num_batched_tokens)),
        *("--gpu-memory-utilization", f"{d.gpu_memory_utilization:g}"),
        *("--kv-cache-dtype", _kv(d, found, "fp8", "bfloat16")),
        *(("--max-model-len", str(d.max_model_len)) if d.max_model_len else ()),
    )


def _sglang(d: Deployment, arch: Architecture, gpu: Gpu, found: Checkpoint) -> Sequence[str]:
    # SGLang's share is of weights and KV cache alone; vLLM's holds activations as well
    memory = memory_plan(arch, gpu, d, d.max_model_len or arch.max_context)
    static = (memory.weight_bytes + memory.kv_budget_bytes) / memory.memory_bytes
    return (
        *("python", "-m", "sglang.launch_server", "--model-path", found.path),
        *("--tp-size", str(d.tp_size)),
        *("--pp-size", str(d.pp_size)),
        *(("--ep-size", str(d.tp_size)) if d.expert_parallel else ()),
        *("--max-running-requests", str(d.max_num_seqs)),
        *("--chunked-prefill-size", str(d.max_num_batched_tokens)),
        *("--mem-fraction-static", f"{static:.3f}"),
        *("--kv-cache-dtype", _kv(d, found, "fp8_e4m3", "bf16")),
        *(("--context-length", str(d.max_model_len)) if d.max_model_len else ()),
    )


def _builtin(d: Deployment, arch: Architecture, gpu: Gpu, found: Checkpoint) -> Sequence[str]:
    room = memory_plan(arch, gpu, d, d.max_model_len or arch.max_context).kv_capacity_tokens
    # a batch of the longest sequences is all it can use
    wanted = d.max_num_seqs * (d.max_model_len or arch.max_context)
    on_cpu = ("--device", "cpu", "--threads-per-rank", str(gpu.num_compute_units))
    return (
        *("shardwise", "serve", found.path),
        *("--tensor-parallel-size", str(d.tp_size)),
        *("--max-num-seqs", str(d.max_num_seqs)),
        *("--max-num-batched-tokens", str(d.max_num_batched_tokens)),
        *("--kv-cache-tokens", str(min(room, wanted))),
        *("--dtype", d.weight_dtype),
        *(on_cpu if gpu.vendor == "cpu" else ()),
        *(("--max-model-len", str(d.max_model_len)) if d.max_model_len else ()),
    )


def _kv(d: Deployment, found: Checkpoint, fp8: str, bf16: str) -> str:
    """`auto` would follow a quantized checkpoint's own wish, so what was scored is spelt out."""
    if d.kv_dtype == "fp8":
        return fp8
    return "auto" if found.dtype in _UNQUANTIZED else bf16
