"""Kubernetes: a Deployment and a Service for each model; LeaderWorkerSet where PP spans nodes.

https://kubernetes.io/docs/reference/kubernetes-api, https://lws.sigs.k8s.io
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable
from shardwise.hosting.exports.images import (
    CONTAINER_PORT,
    api_key_variable,
    command,
    dump,
    image,
)
from shardwise.hosting.launching import Launch

RESOURCES = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu"}


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:
    """Return one manifest per model. Device numbers are not used: the scheduler assigns them.

    Each model has its own Service. Routing by the `model` field of requests needs a gateway.
    """
    manifests = {}
    for model in file.models:
        launch = next(made_one for made_one in made if made_one.model is model)
        name = _name(model)
        nodes = _nodes(file, model)
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": file.name}
        if nodes > 1:
            workload = _leader_worker_set(file, launch, name, labels, nodes)
        else:
            workload = _deployment(file, launch, name, labels)
        manifests[f"{name}.yaml"] = dump(workload, _service(name, labels))
    return manifests


def _name(model: ModelTable) -> str:
    name = "".join(c if c.isalnum() else "-" for c in model.served_name.lower())
    return name[:52].strip("-")


def _nodes(file: DeploymentFile, model: ModelTable) -> int:
    """Return the number of nodes of one replica: one, unless it needs more GPUs than a node has."""
    per_node = file.node.gpus
    if not per_node or model.devices_per_replica <= per_node:
        return 1
    stage = model.layout.stage_gpus
    if stage > per_node or model.pp_size % -(-model.devices_per_replica // per_node):
        raise InputError(
            f"{model.served_name}: {model.layout.name} on nodes of {per_node}",
            "allowed: a pipeline stage within a node, PP a multiple of the nodes",
        )
    return -(-model.devices_per_replica // per_node)


def _container(file: DeploymentFile, launch: Launch, gpus: int) -> dict[str, Any]:
    env: list[dict[str, Any]] = [
        {"name": key, "value": value} for key, value in launch.model.env.items()
    ]
    if file.api_key_env and (variable := api_key_variable(launch)):
        secret = {"name": f"{file.name}-api-key", "key": "key"}
        env.append({"name": variable, "valueFrom": {"secretKeyRef": secret}})
    probe = {"httpGet": {"path": "/health", "port": "http"}}
    line = command(launch)
    wait = int(launch.model.ready_timeout_s)
    resources = {RESOURCES[launch.kind]: str(gpus)}
    return {
        "name": "engine",
        "image": image(launch),
        "command": line[:3],
        "args": line[3:],
        "env": env,
        "ports": [{"name": "http", "containerPort": CONTAINER_PORT}],
        "resources": {"requests": resources, "limits": resources},
        "startupProbe": {**probe, "periodSeconds": 10, "failureThreshold": max(1, wait // 10)},
        "readinessProbe": {**probe, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        # the endpoint is removed first, so that streams end before the process does
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
    }


def _pod(labels: dict[str, str], container: dict[str, Any]) -> dict[str, Any]:
    shared_memory = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    return {
        "metadata": {"labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 120,
            "containers": [container],
            "volumes": [shared_memory],
        },
    }


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
            "template": _pod(labels, _container(file, launch, model.devices_per_replica)),
        },
    }


def _leader_worker_set(
    file: DeploymentFile, launch: Launch, name: str, labels: dict[str, str], nodes: int
) -> dict[str, Any]:
    """LeaderWorkerSet; source: https://docs.vllm.ai/en/latest/deployment/frameworks/lws.html."""
    if launch.model.engine != "vllm":
        raise InputError(
            f"{launch.replica}: a replica over {nodes} nodes with {launch.model.engine}",
            "allowed: vllm",
        )
    gpus = launch.model.devices_per_replica // nodes
    script = "/vllm-workspace/examples/online_serving/multi-node-serving.sh"
    leader = _container(file, launch, gpus)
    serve = " ".join([*leader["command"], *leader["args"], "--distributed-executor-backend ray"])
    leader["command"] = ["sh", "-c"]
    leader["args"] = [f"bash {script} leader --ray_cluster_size=$(LWS_GROUP_SIZE); {serve}"]
    worker = {
        **{key: leader[key] for key in ("image", "env", "resources", "volumeMounts")},
        "name": "worker",
        "command": ["sh", "-c"],
        "args": [f"bash {script} worker --ray_address=$(LWS_LEADER_ADDRESS)"],
    }
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": launch.model.replicas,
            "leaderWorkerTemplate": {
                "size": nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _pod({**labels, "role": "leader"}, leader),
                "workerTemplate": _pod(labels, worker),
            },
        },
    }


def _service(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }
