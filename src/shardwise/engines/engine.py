"""The record of an inference engine: flags, limits, sharding rules and defaults."""

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
    Settings,
)
from shardwise.engines.rules import CutRule, Shard, Weight
from shardwise.engines.startup import StartupMemory
from shardwise.engines.versions import Known, Version, parse
from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment

#: 8-bit floating-point KV cache dtypes. Refused on devices whose kernels cannot read them.
FP8_KV: Final = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})

WriteFlags = Callable[[Deployment, Launch, Device], list[str]]
WriteFiles = Callable[[Deployment, Launch], tuple[ConfigFile, ...]]
CachesFp8 = Callable[[Device], bool]
AutoKv = Callable[[str, str], str]
WriteSettings = Callable[[Model, Deployment, Device], Settings]


def no_settings(model: Model, deployment: Deployment, device: Device) -> Settings:
    """Return no settings: the engine's defaults are as predicted."""
    del model, deployment, device
    return Settings()


def no_files(deployment: Deployment, launch: Launch) -> tuple[ConfigFile, ...]:
    """Return no files: most engines take all settings on the command line."""
    del deployment, launch
    return ()


def caches_fp8(device: Device) -> bool:
    """Return whether the device supports an fp8 e4m3 KV cache: GPUs with fp8 matrix units.

    Ampere is refused: "type fp8e4nv not supported in this architecture"
    (github.com/vllm-project/vllm/issues/26431).
    """
    return device.multiplies_fp8


def checkpoint_kv(weight_dtype: str, kv_scheme: str) -> str:
    """Return the dtype of an "auto" KV cache: the checkpoint's, or 16 bits if it states none.

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
        title: As its project writes it.
        program: Command line words before the model.
        module: Words between `python -m` and the model.
        known: Range of versions whose sources were read.
        write_flags: Returns the flags of a deployment, without model, address and served name.
        write_files: Returns the files that the flags refer to.
        address: Flags for host and port, in this order.
        served_name_flag: "" if the engine has none.
        defaults_at: Returns the default limits by device, version and GPUs per replica.
        cut_at: Returns one rank's shard of a weight.
        settings: Returns what makes it run a model as predicted, where its defaults do not.
        startup_at: Returns the memory that it takes besides weights and KV cache.
        scheduling_at: Returns how it schedules requests.
        auto_kv: Returns the dtype of an "auto" KV cache.
        caches_fp8: Returns whether a device supports an fp8 KV cache.
        managed: Whether `up`, sweeps and measured studies can start it. Others are started with
            `engine = "command"` in a deployment file.
        vocab_padding: The vocabulary is padded to a multiple of this before TP shards it.
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
    settings: WriteSettings = no_settings
    address: tuple[str, str] = ("--host", "--port")
    served_name_flag: str = "--served-model-name"
    auto_kv: AutoKv = checkpoint_kv
    caches_fp8: CachesFp8 = caches_fp8
    managed: bool = False
    vocab_padding: int = 64

    def parse_version(self, text: str) -> Version | None:
        """Return the version in text such as "vllm 0.11.0"; None if there is none."""
        return parse(text)

    def is_known(self, version: str) -> bool:
        """Return whether `version` is within the range of versions whose sources were read."""
        return self.known.holds(parse(version))

    def version_remark(self, version: str) -> str:
        """Return one line of warning for a version outside that range; "" for one within it."""
        if self.is_known(version):
            return ""
        read = f"{self.known.oldest} to {self.known.newest}"
        if parse(version) is None:
            given = f"{self.title} without a version"
        else:
            given = f"{self.title} {version[:40]}"
        return f"{given}: limits, sharding rules and memory are those of versions {read}"

    def defaults(self, device: Device, version: str = "", world_size: int = 1) -> Defaults:
        """Return the server's default limits on `device` with `world_size` GPUs per replica."""
        return self.defaults_at(device, parse(version), world_size)

    def cut(self, weight: Weight, tp_size: int, device: Device, version: str = "") -> Shard:
        """Return one rank's shard of `weight`; `refused` is the reason if the engine refuses it.

        Without a version, the strictest rule of all known versions applies, so an accepted layout
        runs on each of them.
        """
        return self.cut_at(weight, tp_size, device, parse(version))

    def startup(self, device: Device, version: str = "") -> StartupMemory:
        """Return the memory that it takes on `device` besides weights and KV cache."""
        return self.startup_at(device, parse(version))

    def scheduling(self, device: Device, version: str = "") -> Scheduling:
        """Return how it schedules requests on `device`."""
        return self.scheduling_at(device, parse(version))

    def require(self, deployment: Deployment, device: Device, model: Model | None) -> None:
        """Raise InputError for the first setting that the engine does not support.

        Args:
            deployment: Its layout and dtypes are checked. `cut` checks the sizes of weights.
            device: The device it runs on.
            model: The model to load; None if unknown, then checks that need it are skipped.
        """
        from shardwise.engines.checks import problems

        for problem in problems(self, deployment, device, model):
            raise problem

    def command(
        self, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> Command:
        """Return the command that starts one replica.

        Raises InputError for a setting that the engine cannot express.
        """
        words = (*self.program, launch.model)
        return self._command(words, deployment, launch, device or Device())

    def module_command(
        self, python: str, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> Command:
        """Return the same command with a given Python interpreter."""
        words = (python, "-m", *self.module, launch.model)
        return self._command(words, deployment, launch, device or Device())

    def arguments(
        self, deployment: Deployment, launch: Launch, device: Device | None = None
    ) -> list[str]:
        """Return the engine's flags for `deployment`, without model and address.

        Raises InputError for a value that it cannot express.
        """
        self._spelled_kv(deployment.dtypes.kv)
        return [*self.write_flags(deployment, launch, device or Device()), *launch.flags]

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
