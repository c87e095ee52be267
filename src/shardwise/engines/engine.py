"""What Shardwise knows of an inference engine, in one record: flags, limits, rules, defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from shardwise.architecture.model import Model
from shardwise.engines.device import Device
from shardwise.engines.facts import (
    Capabilities,
    Command,
    ConfigFile,
    Defaults,
    Launch,
    Metrics,
    Packaging,
    Scheduling,
)
from shardwise.engines.rules import CutRule, Shard, Weight
from shardwise.engines.startup import StartupMemory
from shardwise.engines.versions import Known, Version, parse
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment

#: KV cache dtypes of 8 bits in floating point: refused on devices whose kernels cannot read them.
FP8_KV: Final = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})

WriteFlags = Callable[[Deployment, Launch, Device], list[str]]
WriteFiles = Callable[[Deployment, Launch], tuple[ConfigFile, ...]]
CachesFp8 = Callable[[Device], bool]
AutoKv = Callable[[str, str], str]


def no_files(deployment: Deployment, launch: Launch) -> tuple[ConfigFile, ...]:
    """Most engines take everything on the command line."""
    del deployment, launch
    return ()


def caches_fp8(device: Device) -> bool:
    """Whether a KV cache in fp8 e4m3 can be used: GPUs that multiply fp8.

    Ampere is refused: "type fp8e4nv not supported in this architecture"
    (github.com/vllm-project/vllm/issues/26431).
    """
    return device.multiplies_fp8


def checkpoint_kv(weight_dtype: str, kv_scheme: str) -> str:
    """What an "auto" KV cache is: what the checkpoint asks for, else 16 bits.

    Args:
        weight_dtype: Of the checkpoint.
        kv_scheme: The dtype of `kv_cache_scheme` or `kv_cache_quant_algo`; "" for none.
    """
    if kv_scheme:
        return kv_scheme
    return "fp16" if weight_dtype == "fp16" else "bf16"


class Engine(msgspec.Struct, frozen=True):
    """An inference engine.

    Attributes:
        name: As users write it.
        title: As its project does.
        program: Words a person types before the model.
        module: Words after `python -m` before the model.
        known: Versions that these facts were read from.
        write_flags: Flags for a deployment, without model, address and served name.
        write_files: Files that the flags name.
        address: Flags for host and port, in this order.
        served_name_flag: "" where the engine has none.
        defaults_at: Limits it starts with, by device, version and GPUs of a replica.
        cut_at: How TP cuts one weight.
        startup_at: Memory it takes beside weights and KV cache.
        scheduling_at: How it fills its steps.
        auto_kv: Dtype of an "auto" KV cache.
        caches_fp8: Whether a device can keep its KV cache in fp8.
        managed: Whether Shardwise starts it itself, in `up`, sweeps and measured studies; others
            are started with `engine = "command"` in a deployment file.
        vocab_padding: Multiple that the vocabulary is padded to before TP cuts it.
    """

    name: str
    title: str
    program: tuple[str, ...]
    module: tuple[str, ...]
    packaging: Packaging
    capabilities: Capabilities
    known: Known
    metrics: Metrics
    write_flags: WriteFlags
    defaults_at: Callable[[Device, Version | None, int], Defaults]
    cut_at: CutRule
    startup_at: Callable[[Device, Version | None], StartupMemory]
    scheduling_at: Callable[[Device, Version | None], Scheduling]
    write_files: WriteFiles = no_files
    address: tuple[str, str] = ("--host", "--port")
    served_name_flag: str = "--served-model-name"
    auto_kv: AutoKv = checkpoint_kv
    caches_fp8: CachesFp8 = caches_fp8
    managed: bool = False
    vocab_padding: int = 64

    def parse_version(self, text: str) -> Version | None:
        """The version in `text`, as in "vllm 0.11.0"; None where there is none."""
        return parse(text)

    def is_known(self, version: str) -> bool:
        """Whether these facts were read from versions around `version`."""
        return self.known.holds(parse(version))

    def version_remark(self, version: str) -> str:
        """One line on a version that these facts may not hold for; "" where they do."""
        if self.is_known(version):
            return ""
        read = f"{self.known.oldest} to {self.known.newest}"
        if parse(version) is None:
            given = f"{self.title} without a version"
        else:
            given = f"{self.title} {version[:40]}"
        return f"{given}: its limits, rules and memory are those of versions {read}"

    def defaults(self, device: Device, version: str = "", world_size: int = 1) -> Defaults:
        """What it starts with on `device` as a server, with `world_size` GPUs a replica."""
        return self.defaults_at(device, parse(version), world_size)

    def cut(self, weight: Weight, tp_size: int, device: Device, version: str = "") -> Shard:
        """What one rank holds of `weight`; `refused` says why it does not start.

        Without a version, a rule holds if any known version has it: what is accepted then runs on
        all of them.
        """
        return self.cut_at(weight, tp_size, device, parse(version))

    def startup(self, device: Device, version: str = "") -> StartupMemory:
        """Memory it takes on `device` beside weights and KV cache."""
        return self.startup_at(device, parse(version))

    def scheduling(self, device: Device, version: str = "") -> Scheduling:
        """How it fills its steps on `device`."""
        return self.scheduling_at(device, parse(version))

    def require(self, deployment: Deployment, device: Device, model: Model | None) -> None:
        """Raise InputError for the first thing that the engine cannot do.

        Args:
            deployment: Its layout and dtypes are checked. Sizes of weights are `cut`'s job.
            device: What it is to run on.
            model: What is to be loaded; None: not known, so not checked.
        """
        from shardwise.engines.checks import problems

        for problem in problems(self, deployment, device, model):
            raise problem

    def command(
        self, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> Command:
        """What a person types to start one replica. InputError for what it cannot express."""
        words = (*self.program, launch.model)
        return self._command(words, deployment, launch, device or Device())

    def module_command(
        self, python: str, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> Command:
        """The same, run by an interpreter of one's own choice."""
        words = (python, "-m", *self.module, launch.model)
        return self._command(words, deployment, launch, device or Device())

    def arguments(
        self, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> list[str]:
        """The flags that `deployment` means to the engine, without model and address.

        Raises InputError for a value that it cannot express.
        """
        self._spelled_kv(deployment.dtypes.kv)
        return self.write_flags(deployment, launch, device or Device())

    def _command(
        self, words: tuple[str, ...], deployment: Deployment, launch: Launch, device: Device
    ) -> Command:
        flags = self.arguments(deployment, launch, device)
        host, port = self.address
        at = [host, launch.host, port, str(launch.port)]
        if launch.served_name and self.served_name_flag:
            at += [self.served_name_flag, launch.served_name]
        return Command((*words, *flags, *at), self.write_files(deployment, launch))

    def _spelled_kv(self, kv: str) -> None:
        allowed = self.capabilities.kv_dtypes
        if kv != "auto" and kv not in allowed:
            raise InputError(
                f"KV cache dtype {kv[:40]!r} for {self.title}",
                f"allowed: auto, {', '.join(allowed)}",
            )
