"""Write the command that starts a replica, with the flags that were scored.

`shardwise.engines` has the flags, so `shardwise up` runs the same command.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from shardwise.architecture.bundled import bundled, published_checkpoint, published_id, stored_in
from shardwise.architecture.formats import UNQUANTIZED
from shardwise.architecture.model import Model
from shardwise.engines.device import device_of
from shardwise.engines.facts import Command, ConfigFile, Launch, Share
from shardwise.engines.registry import get
from shardwise.hardware.gpu import Gpu
from shardwise.hardware.node import Node
from shardwise.layout.deployment import Deployment
from shardwise.perfmodel.memory import plan as memory_plan


class Checkpoint(msgspec.Struct, frozen=True):
    """The checkpoint that the engine loads: a hub id or folder, and its stored dtype.

    `placeholder`: no checkpoint in the scored dtype is known; the user must supply one.
    """

    path: str
    dtype: str
    placeholder: bool = False


class Replica(msgspec.Struct, frozen=True):
    """One engine process: its devices, environment, arguments and files."""

    devices: tuple[int, ...]
    port: int
    environment: dict[str, str]
    argv: tuple[str, ...]
    files: tuple[ConfigFile, ...] = ()
    node: int = 0  #: of several, the one it runs on

    @property
    def line(self) -> str:
        """The command for a shell."""
        settings = " ".join(f"{k}={shlex.quote(v)}" for k, v in self.environment.items())
        return f"{settings} {shlex.join(self.argv)}".strip()


def checkpoint(given: str, model: Model, deployment: Deployment) -> Checkpoint:
    """Return the checkpoint that matches `deployment` as scored, for a model named `given`.

    A file or folder is used unchanged. For a bundled model it is the published checkpoint in the
    weight dtype, the 16-bit one if the engine quantizes to that dtype on load, or a placeholder.
    """
    path, wanted = Path(given).expanduser(), deployment.dtypes.weight
    own = model.checkpoint_dtype
    if path.exists() and ("/" in given or path.is_file()):
        return _found(str(path.parent if path.is_file() else path), own, deployment)
    if model.id not in bundled():
        return _found(given, own, deployment)
    if "/" in given and wanted in ("auto", own):
        return Checkpoint(given, own)
    if published := published_checkpoint(model.id, wanted):
        return Checkpoint(published, own if wanted == "auto" else wanted)
    base = published_id(model.id)
    return _found(base or given, published_dtype(model), deployment)


def published_dtype(model: Model) -> str:
    """Return the dtype of the checkpoint named by a bundled model's own id."""
    from shardwise.architecture.models import load

    return load(model.id).checkpoint_dtype


def _found(path: str, dtype: str, deployment: Deployment) -> Checkpoint:
    wanted = deployment.dtypes.weight
    if wanted in ("auto", dtype) or quantizes_online(deployment.engine, dtype, wanted):
        return Checkpoint(path, dtype)
    if deployment.engine == "builtin":  # its --dtype converts on load
        return Checkpoint(path, dtype)
    name = path.rstrip("/").rpartition("/")[2]
    return Checkpoint(f"YOUR-{wanted.upper()}-CHECKPOINT-OF-{name}", wanted, placeholder=True)


def quantizes_online(engine: str, stored: str, wanted: str) -> bool:
    """Return whether the engine quantizes 16-bit weights to `wanted` on load."""
    return get(engine).capabilities.online_fp8 and wanted == "fp8" and stored in UNQUANTIZED


def note(found: Checkpoint) -> str:
    """Return what the user must supply for the command to run as scored, or ""."""
    if not found.placeholder:
        return ""
    return f"no published checkpoint in {found.dtype} is known: replace {found.path} with your own"


def as_started(deployment: Deployment, model: Model) -> Deployment:
    """Return `deployment` without a KV cache dtype that the checkpoint sets itself.

    Engines follow the checkpoint unless a flag overrides it, so the command contains no flag that
    the user did not ask for.
    """
    stored = stored_in(model, deployment.dtypes.weight)
    if deployment.dtypes.kv == stored.kv_dtype:
        return deployment.with_dtypes(kv="auto")
    return deployment


def launch_of(
    deployment: Deployment, model: Model, gpu: Gpu, found: Checkpoint, port: int = 8000
) -> Launch:
    """Return what starting a replica needs beyond its deployment."""
    launch = Launch(
        model=found.path,
        port=port,
        checkpoint_dtype=found.dtype,
        checkpoint_kv="" if model.kv_dtype == "bf16" else model.kv_dtype,
        embeds=not model.generates,
        draft=_draft(deployment),
        flags=get(deployment.engine).settings(model, deployment, device_of(gpu)).flags,
    )
    if deployment.engine != "builtin":
        return launch
    longest = deployment.limits.max_model_len or model.max_context
    room = memory_plan(model, gpu, deployment, longest).kv_capacity_tokens
    # it cannot use more than a batch of the longest sequences
    room = min(room, deployment.limits.max_num_seqs * longest)
    threads = gpu.num_compute_units if gpu.vendor == "cpu" else 0
    return replace(launch, kv_cache_tokens=room, threads_per_rank=threads)


def _draft(deployment: Deployment) -> str:
    """Return the engine's draft model: its hub id or folder, "" for none."""
    drafted = deployment.speculation
    if drafted is None or drafted.own_heads:
        return ""
    return published_id(drafted.draft) or drafted.draft


def engine_command(
    deployment: Deployment,
    model: Model,
    gpu: Gpu,
    found: Checkpoint,
    port: int = 8000,
    share: Share | None = None,
) -> Command:
    """Return the command that starts one replica, or its `share` on one of several nodes.

    Raises InputError for settings that the engine has no flag for.
    """
    launch = launch_of(deployment, model, gpu, found, port)
    if share is not None:
        launch = launch.on(share)
    started = as_started(deployment, model)
    return get(deployment.engine).command(started, launch, device_of(gpu))


def extra_flags(
    deployment: Deployment, model: Model, gpu: Gpu, found: Checkpoint
) -> tuple[str, ...]:
    """Return flags that follow from the model, its checkpoint and the GPU, and not from the
    deployment file."""
    engine, device = get(deployment.engine), device_of(gpu)
    deployment = as_started(deployment, model)
    whole = engine.arguments(deployment, launch_of(deployment, model, gpu, found), device)
    settings = replace(deployment.with_dtypes(weight="auto"), speculation=None)
    plain = engine.arguments(settings, Launch(found.path, embeds=not model.generates), device)
    known = _groups(plain)
    return tuple(word for group in _groups(whole) if group not in known for word in group)


def environment(deployment: Deployment, model: Model, gpu: Gpu) -> dict[str, str]:
    """Return the environment variables of an engine that follow from the model and the GPU."""
    return dict(get(deployment.engine).settings(model, deployment, device_of(gpu)).environment)


def _groups(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Group each flag with its values."""
    groups: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append((word,))
        else:
            groups[-1] = (*groups[-1], word)
    return groups


def replicas(
    deployment: Deployment,
    model: Model,
    gpu: Gpu,
    found: Checkpoint,
    first_device: int = 0,
    first_port: int = 8000,
    order: Sequence[int] = (),
) -> tuple[Replica, ...]:
    """Return one process per replica, each with its own port and contiguous devices, from `order`
    if given."""
    width, own = deployment.layout.replica_gpus, environment(deployment, model, gpu)
    made = []
    for i in range(deployment.replicas):
        devices = tuple(range(first_device + i * width, first_device + (i + 1) * width))
        devices = tuple(sorted(order[d] for d in devices)) if order else devices
        port = first_port + i
        command = engine_command(deployment, model, gpu, found, port)
        variables = _visible(gpu, devices, is_chosen=bool(order)) | own
        made.append(Replica(devices, port, variables, command.argv, command.files))
    return tuple(made)


def replicas_across(
    deployment: Deployment, model: Model, node: Node, found: Checkpoint, first_port: int = 8000
) -> tuple[Replica, ...]:
    """Return the processes of several nodes, by node: replicas within a node, or each node's share
    of one that spans nodes. `NODE0` is a placeholder for the first node's address."""
    width, size = deployment.layout.replica_gpus, node.gpus_per_node
    own = environment(deployment, model, node.gpu)
    made = []
    for i in range(deployment.replicas):
        shares: list[Share | None] = [None]
        at, place = divmod(i, max(size // width, 1))
        if width > size:
            spread = width // size
            at, place = i * spread, 0
            shares = [Share(spread, rank, f"NODE{at}") for rank in range(spread)]
        for rank, share in enumerate(shares):
            start, port = place * width, first_port + place
            devices = tuple(range(start, start + min(width, size)))
            command = engine_command(deployment, model, node.gpu, found, port, share)
            variables = _visible(node.gpu, devices) | own
            argv, files = command.argv, command.files
            made.append(Replica(devices, port, variables, argv, files, at + rank))
    return tuple(sorted(made, key=lambda replica: (replica.node, replica.port)))


_VISIBLE = {"amd": "HIP_VISIBLE_DEVICES", "intel": "ZE_AFFINITY_MASK"}


def _visible(gpu: Gpu, devices: Sequence[int], *, is_chosen: bool = False) -> dict[str, str]:
    """Return the variables that restrict a process to its devices.

    Devices that a node file chose are numbered as in `nvidia-smi`. CUDA's own order is fastest
    first, which differs on mixed nodes.
    """
    if gpu.vendor == "cpu":
        return {}
    variable = _VISIBLE.get(gpu.vendor, "CUDA_VISIBLE_DEVICES")
    by_bus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if is_chosen and gpu.vendor == "nvidia" else {}
    return {**by_bus, variable: ",".join(map(str, devices))}
