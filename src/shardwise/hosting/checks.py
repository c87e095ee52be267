"""Checks before a start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shardwise.engines import get
from shardwise.errors import DoesNotFitError, InputError
from shardwise.hosting.balancers.choosing import choose
from shardwise.hosting.cluster import check_cluster
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.hosting.devices import check_claims, check_present, kind_of
from shardwise.hosting.launching import Launch, launches
from shardwise.hosting.node_check import check_node
from shardwise.units import GIB

if TYPE_CHECKING:
    from shardwise.architecture.model import Model
    from shardwise.hardware.gpu import Gpu
    from shardwise.node.node import Node


def check_plan(file: DeploymentFile) -> list[Launch]:
    """Check what applies on any machine: sharding rules, memory, devices. Exports need only
    this."""
    for model in file.models:
        _check_shape(file, model)
    made = launches(file, kind_of(file))
    check_claims(made)
    return made


def check_here(file: DeploymentFile, ports: Sequence[tuple[str, int]]) -> list[Launch]:
    """Check this machine before `up`; `ports` must be free."""
    from shardwise.replica.probing import port_in_use

    require_one_node(file, "'shardwise up'")
    made = check_plan(file)
    if file.node.ray:
        check_cluster(file, kind_of(file))
    check_present(made, kind_of(file))
    to_start = {port for _, port in ports}  # a running replica's memory is already in use
    starting = [launch for launch in made if launch.port in to_start]
    _check_memory(file, starting, check_node(starting))
    choose(file)
    for model in file.models:
        _check_engine(model)
    if file.api_key_env and not os.environ.get(file.api_key_env):
        raise InputError(
            f"api_key_env: {file.api_key_env} is not set", remedy="set it, or remove api_key_env"
        )
    for host, port in ports:
        if port_in_use(host, port):
            raise InputError(
                f"port {port} on {host} is in use", remedy="choose another in the file"
            )
    return made


def require_one_node(file: DeploymentFile, using: str) -> None:
    """Raise InputError for a file of several nodes, which `using` cannot start."""
    if file.node.ray or not file.node.gpus or file.node.gpu == "cpu":
        return
    gpus = sum(model.devices_per_replica * model.replicas for model in file.models)
    if gpus > file.node.gpus:
        raise InputError(
            f"{gpus} GPUs for the replicas, and the file's node has {file.node.gpus}",
            f"allowed with {using}: one node",
            "for several nodes, use 'shardwise export --to kubernetes' or ray",
        )


def _check_shape(file: DeploymentFile, model: ModelTable) -> None:
    """Check the planner's rules, if the architecture is known without network access."""
    from shardwise.engines.checks import layout_problems
    from shardwise.layout.rules import require_layout

    arch = _architecture(model)
    if arch is None:
        return
    require_layout(arch, model.layout)
    if model.engine != "command":
        for problem in layout_problems(get(model.engine), model.layout, arch):
            raise problem
    if file.node.gpu != "cpu":
        _require_room(model, arch, _gpu(file))


def _check_memory(file: DeploymentFile, starting: Sequence[Launch], node: Node | None) -> None:
    """Raise DoesNotFitError if the GPUs here have too little memory for a replica's KV cache.

    Their memory may be less than the catalogue's. No-op if the node was not read.
    """
    from shardwise.perfmodel.node_gpu import with_memory

    for launch in starting:
        if node is None or not set(launch.devices) & set(node.indices):
            continue
        here = with_memory(node.only(launch.devices), _gpu(file))
        arch = _architecture(launch.model) if here.memory_bytes < _gpu(file).memory_bytes else None
        if arch is not None:
            where = f" with the {here.memory_bytes / GIB:.1f} GiB that it has here"
            _require_room(launch.model, arch, here, where)


def _architecture(model: ModelTable) -> Model | None:
    """Return the model's architecture if it is known without network access."""
    from shardwise.architecture.models import bundled, load

    given = model.architecture or model.model
    path = Path(given).expanduser()
    local = (path / "config.json").is_file() or path.suffix == ".json"
    if not local and given not in bundled() and not model.architecture:
        try:
            return load(given) if "/" not in given else None
        except InputError:
            return None
    return load(given)


def _gpu(file: DeploymentFile) -> Gpu:
    from shardwise.hardware.catalogue import default_catalogue

    return default_catalogue().gpu(file.node.gpu)


def _require_room(model: ModelTable, arch: Model, gpu: Gpu, where: str = "") -> None:
    """Raise DoesNotFitError if `gpu` has no room for a KV cache besides the weights."""
    from shardwise.perfmodel.memory import plan

    found = plan(arch, gpu, model.deployment(gpu.id), model.max_model_len or arch.max_context)
    if found.kv_budget_bytes <= 0:
        raise DoesNotFitError(
            f"{model.served_name}: weights and activations leave no room for a KV cache on "
            f"{gpu.id} at TP={model.tp_size}{where}; raise tp_size or gpu_memory_utilization"
        )


def _check_engine(model: ModelTable) -> None:
    if model.engine == "command":
        if not shutil.which(model.command[0]):
            raise InputError(
                f"{model.served_name}: command {model.command[0]!r} is not on the PATH"
            )
        return
    python = model.python or sys.executable
    if not shutil.which(python):
        raise InputError(f"{model.served_name}: python {python!r} does not exist")
    packaging = get(model.engine).packaging
    module = packaging.module
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    if subprocess.run([python, "-c", code], check=False, timeout=60).returncode:
        raise InputError(
            f"{model.served_name}: engine {model.engine!r} is not installed in {python}",
            packaging.install,
            "or name the interpreter that has it: python = …",
        )
