"""Pods of an engine on Kubernetes: container, probes, GPUs and shared memory."""

from __future__ import annotations

from typing import Any

from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.exports.images import CONTAINER_PORT, api_key_variable, command, image
from shardwise.hosting.launching import Launch

RESOURCES = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu"}


def container(file: DeploymentFile, launch: Launch, gpus: int) -> dict[str, Any]:
    """Return the container of a replica, or of its first node, with `gpus` GPUs."""
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


def pod(labels: dict[str, str], container: dict[str, Any]) -> dict[str, Any]:
    """Return a pod template with one container."""
    shared_memory = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    return {
        "metadata": {"labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 120,
            "containers": [container],
            "volumes": [shared_memory],
        },
    }
