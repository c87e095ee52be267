"""Assign the GPUs of a node file to replicas by the best links."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.node.files import read
from shardwise.node.node import Node
from shardwise.perfmodel.node_gpu import device_order, gpu_of


def placed(file: DeploymentFile, path: Path) -> DeploymentFile:
    """Return `file` with devices for every replica: its own, else GPUs of the node at `path`, the
    largest replicas first.

    Raises:
        InputError: The node file cannot be read, is of other GPUs, or has fewer than are needed.
    """
    node = read(path)
    named = gpu_of(node)
    if named is not None and named.id != file.node.gpu:
        raise InputError(
            f"the deployment is for {file.node.gpu}, and {path} is a node of {named.id}",
            "needed: the node file of those GPUs",
        )
    taken = [d for model in file.models for replica in model.devices for d in replica]
    if strange := sorted(set(taken) - set(node.indices)):
        raise InputError(
            f"device {strange[0]} is not in {path}", f"allowed: {', '.join(map(str, node.indices))}"
        )
    free = node.only(set(node.indices) - set(taken))
    models = list(file.models)
    unplaced = [i for i, model in enumerate(models) if not model.devices]
    for i in sorted(unplaced, key=lambda i: -models[i].layout.replica_gpus):
        models[i], free = _dealt(models[i], free, path)
    return replace(file, models=models)


def _dealt(model: ModelTable, free: Node, path: Path) -> tuple[ModelTable, Node]:
    """Return `model` with devices from `free`, and the remaining ones."""
    layout = model.layout
    if layout.gpus > len(free.devices):
        raise InputError(
            f"{model.served_name}: {layout.replicas} x {layout.name} take {layout.gpus} GPUs",
            f"free on {path}: {len(free.devices)}",
        )
    each, order = layout.replica_gpus, device_order(free, layout.stage_gpus)
    dealt = [sorted(order[i * each : (i + 1) * each]) for i in range(layout.replicas)]
    used = {device for devices in dealt for device in devices}
    return replace(model, devices=dealt), free.only(set(free.indices) - used)
