"""Kubernetes: a Deployment and a Service for each model, or a LeaderWorkerSet if a replica spans
nodes.

https://kubernetes.io/docs/reference/kubernetes-api
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.hosting.exports.images import dump
from shardwise.hosting.exports.leader_worker_set import LEADER, leader_worker_set, nodes_of
from shardwise.hosting.exports.pods import container, pod
from shardwise.hosting.launching import Launch


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:
    """Return one manifest per model. Device numbers are not used: the scheduler assigns them.

    Each model has its own Service. Routing by the `model` field of requests needs a gateway.
    """
    manifests = {}
    for model in file.models:
        launch = next(made_one for made_one in made if made_one.model is model)
        name = _name(model)
        nodes = nodes_of(file, model)
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": file.name}
        serving = {"app.kubernetes.io/name": name}
        if nodes > 1:
            workload = leader_worker_set(file, launch, name, labels, nodes)
            serving |= LEADER
        else:
            workload = _deployment(file, launch, name, labels)
        manifests[f"{name}.yaml"] = dump(workload, _service(name, labels, serving))
    return manifests


def _name(model: ModelTable) -> str:
    name = "".join(c if c.isalnum() else "-" for c in model.served_name.lower())
    return name[:52].strip("-")


def _deployment(
    file: DeploymentFile, launch: Launch, name: str, labels: dict[str, str]
) -> dict[str, Any]:
    model = launch.model
    # the GPUs of a replica are free only after the old one has ended
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": model.replicas,
            "strategy": rolling,
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "template": pod(labels, container(file, launch, model.devices_per_replica)),
        },
    }


def _service(name: str, labels: dict[str, str], serving: dict[str, str]) -> dict[str, Any]:
    """Return the Service of the pods with the labels `serving`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": serving,
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }
