"""Check whether a Ray cluster has room for a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable

INSTALL = "pip install 'shardwise[ray]'"


def need_of(model: ModelTable, kind: str) -> tuple[int, int]:
    """Return the CPUs and GPUs of one replica, which must be on one node."""
    ranks = model.devices_per_replica
    return (ranks, 0) if kind == "cpu" else (0, ranks)


def check_cluster(file: DeploymentFile, kind: str) -> None:
    """Raise InputError if Ray is not installed, no cluster answers, or it has too few free
    resources."""
    if find_spec("ray") is None:
        raise InputError("--on needs Ray", INSTALL)
    pinned = [model.served_name for model in file.models if model.devices]
    if pinned:
        raise InputError(
            f"model {pinned[0]!r} names devices", "Ray assigns devices on a cluster: remove devices"
        )
    import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        ray.init(address=file.node.ray, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster at {file.node.ray!r}: {str(error).splitlines()[0][:200]}",
            "expected: ray://host:port or host:port",
        ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    _check_room(file, kind, nodes)


def _check_room(file: DeploymentFile, kind: str, nodes: Sequence[dict[str, Any]]) -> None:
    """Assign replicas to nodes, the largest first."""
    name = "CPU" if kind == "cpu" else "GPU"
    free = [float(node.get(name, 0.0)) for node in nodes]
    for model in sorted(file.models, key=lambda m: -m.devices_per_replica):
        need = model.devices_per_replica
        for replica in range(model.replicas):
            best = max(range(len(free)), key=lambda i: free[i], default=-1)
            if best < 0 or free[best] < need:
                raise InputError(
                    f"{model.served_name}/{replica} needs {need} {name}s of one node",
                    f"the cluster's nodes have {', '.join(f'{x:g}' for x in _of(nodes, name))}",
                )
            free[best] -= need


def _of(nodes: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [float(node.get(name, 0.0)) for node in nodes]
