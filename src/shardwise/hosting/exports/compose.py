"""Docker Compose: a service per replica with pinned devices, and HAProxy in front.

https://github.com/compose-spec/compose-spec
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from shardwise.hosting.balancers.adapter import Front
from shardwise.hosting.balancers.haproxy import KEY_VARIABLE, HAProxy
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.exports.images import (
    CONTAINER_PORT,
    api_key_variable,
    command,
    dump,
    image,
)
from shardwise.hosting.launching import Launch


def service_name(launch: Launch) -> str:
    """Replica name in the characters that Compose allows."""
    name = launch.replica.lower()
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:
    """Write compose.yaml and the haproxy.cfg that it mounts."""
    services: dict[str, Any] = {service_name(launch): _service(file, launch) for launch in made}
    services["balancer"] = {
        "image": "haproxy:lts",
        "ports": [f"{file.host}:{file.port}:{file.port}"],
        "volumes": ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"],
        "depends_on": {name: {"condition": "service_healthy"} for name in services},
        "restart": "unless-stopped",
    }
    if file.api_key_env:
        services["balancer"]["environment"] = {KEY_VARIABLE: f"${{{file.api_key_env}}}"}
    inside = [
        msgspec.structs.replace(launch, host=service_name(launch), port=launch.port)
        for launch in made
    ]
    return {
        "compose.yaml": dump({"name": file.name.lower().replace(".", "-"), "services": services}),
        "haproxy.cfg": _balancer(file, inside),
    }


def _service(file: DeploymentFile, launch: Launch) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": image(launch),
        "entrypoint": command(launch)[:1],
        "command": command(launch)[1:],
        "environment": dict(launch.model.env),
        "ipc": "host",  # ranks exchange tensors in shared memory
        "volumes": [_CACHE, *_local_model(launch)],
        "healthcheck": {
            "test": ["CMD-SHELL", f"curl -sf http://127.0.0.1:{CONTAINER_PORT}/health"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{launch.model.ready_timeout_s:.0f}s",
        },
        "restart": "unless-stopped",
    }
    if file.api_key_env and (variable := api_key_variable(launch)):
        service["environment"][variable] = f"${{{file.api_key_env}}}"
    if launch.kind == "rocm":
        # the two device files, and the GPUs of this replica; source: https://rocm.docs.amd.com
        service["devices"] = ["/dev/kfd", "/dev/dri"]
        service["group_add"] = ["video", "render"]
        service["security_opt"] = ["seccomp=unconfined"]
        service["environment"]["HIP_VISIBLE_DEVICES"] = ",".join(map(str, launch.devices))
    else:
        ids = [str(device) for device in launch.devices]
        reserved = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [reserved]}}}
    return service


_CACHE = "${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface"


def _local_model(launch: Launch) -> list[str]:
    given = launch.model.model
    return [f"{given}:{given}:ro"] if given.startswith("/") else []


def _balancer(file: DeploymentFile, made: Sequence[Launch]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        front = Front("0.0.0.0", file.port, key="from the environment" if file.api_key_env else "")
        text = HAProxy(Path(folder), front).config(made)
    for launch in made:
        # containers differ by host name, so each replica uses the same port
        text = text.replace(f" {launch.host}:{launch.port} ", f" {launch.host}:{CONTAINER_PORT} ")
    lines = [line for line in text.splitlines() if "stats socket" not in line]
    return "\n".join(lines) + "\n"
