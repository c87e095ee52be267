"""Command line and environment of one replica; the flags come from `shardwise.engines`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.engines import Device, Launch, Share, get
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, EngineLimits

MEMORY_SHARE: Final = (
    "--mem-fraction-static"  #: SGLang's flag, a share for weights and KV cache only
)
#: kind of device -> device record for the engine's flags
_DEVICES: Final = {"cuda": Device("nvidia"), "rocm": Device("amd"), "cpu": Device("cpu")}


class Instance(msgspec.Struct, frozen=True):
    """One engine process to start.

    Attributes:
        deployment: Its model is the hub id, folder or file that the engine loads.
        name: Model name in requests; empty: the last part of the model.
        flags: Appended to the engine's command line unchanged.
        python: Interpreter of the engine's own environment; empty: this one.
        env: Environment variables in addition to those of this process.
        task: "generate" or "embed".
        command: For engine "command": any OpenAI server; {port}, {host} and {model} are replaced.
    """

    deployment: Deployment
    name: str = ""
    flags: tuple[str, ...] = ()
    python: str = ""
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    task: str = "generate"
    command: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Model to load."""
        return self.deployment.model

    @property
    def engine(self) -> str:
        """Engine id."""
        return self.deployment.engine

    @property
    def tp_size(self) -> int:
        """Ranks of the process."""
        return self.deployment.tp_size

    @property
    def limits(self) -> EngineLimits:
        """Engine limits."""
        return self.deployment.limits

    @property
    def kv_dtype(self) -> str:
        """KV cache dtype."""
        return self.deployment.dtypes.kv

    def at(self, tp_size: int) -> Instance:
        """Return the same instance at another TP."""
        return replace(self, deployment=self.deployment.with_layout(tp_size=tp_size))

    def for_sequences(self, max_num_seqs: int) -> Instance:
        """Return the same instance for that many concurrent sequences."""
        return replace(self, deployment=self.deployment.with_limits(max_num_seqs=max_num_seqs))

    @property
    def served_name(self) -> str:
        """Name that clients use."""
        return self.name or Path(self.model).name.removesuffix(".gguf")


def argv(
    instance: Instance, host: str, port: int, kind: str, share: Share | None = None
) -> list[str]:
    """Return the engine's command line, with `flags` last.

    With `share`, it is that of one of the replica's nodes and starts the engine's own program,
    since vLLM's server module ignores --headless (entrypoints/cli/serve.py handles it).
    """
    if instance.engine == "command":
        values = {"{host}": host, "{port}": str(port), "{model}": instance.model}
        return [_filled(part, values) for part in instance.command] + [*instance.flags]
    launch = replace(_launch(instance), served_name=instance.served_name, host=host, port=port)
    engine, deployment = get(instance.engine), _started(instance)
    if share is None:
        python = instance.python or sys.executable
        started = engine.module_command(python, deployment, launch, _DEVICES[kind])
    else:
        started = engine.command(deployment, launch.on(share), _DEVICES[kind])
    if started.files:
        raise InputError(
            f"{engine.title} takes these settings from a file",
            remedy=f'write {started.files[0].name} yourself and start it with engine = "command"',
        )
    return [*_without_repeats(started.argv, instance.flags), *instance.flags]


def engine_flags(instance: Instance, kind: str) -> list[str]:
    """Return the engine flags of `instance`'s deployment on devices of a kind."""
    flags = get(instance.engine).arguments(_started(instance), _launch(instance), _DEVICES[kind])
    return _without_repeats(flags, instance.flags)


def _launch(instance: Instance) -> Launch:
    return Launch(instance.model, embeds=instance.task != "generate")


def _started(instance: Instance) -> Deployment:
    """Return the deployment for flags; the weight dtype is the checkpoint's, unless in `flags`."""
    return instance.deployment.with_dtypes(weight="auto")


def _without_repeats(words: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return `words` without the memory share if `given` has it."""
    if MEMORY_SHARE not in given or MEMORY_SHARE not in words:
        return [*words]
    at = list(words).index(MEMORY_SHARE)
    return [*words[:at], *words[at + 2 :]]


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def device_env(instance: Instance, devices: tuple[int, ...], kind: str) -> dict[str, str]:
    """Return environment variables that restrict a replica to its devices."""
    listed = ",".join(map(str, devices))
    if kind == "cuda":
        # CUDA's own order is fastest first, which differs from nvidia-smi's on mixed nodes
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": listed}
    if kind == "rocm":
        return {"HIP_VISIBLE_DEVICES": listed}
    if instance.engine == "vllm":
        # with TP > 1, vLLM's CPU workers query NUMA nodes unless the cores of each rank are given
        cores = devices or tuple(sorted(os.sched_getaffinity(0)))
        share = max(1, len(cores) // instance.tp_size)
        ranks = [
            [cores[(rank * share + i) % len(cores)] for i in range(share)]
            for rank in range(instance.tp_size)
        ]
        bind = "|".join(",".join(map(str, rank)) for rank in ranks)
        return {"VLLM_CPU_OMP_THREADS_BIND": bind}
    if devices:
        return {"OMP_NUM_THREADS": str(max(1, len(devices) // instance.tp_size))}
    return {}
