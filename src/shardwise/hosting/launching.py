"""Command line, environment and devices of each replica."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, count, islice

import msgspec

from shardwise.hosting.cluster import need_of
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, first_ports
from shardwise.hosting.ray_replica import NODE_HOST, NODE_PORT, replica_argv
from shardwise.replica.command import argv, device_env
from shardwise.replica.devices import present


class Launch(msgspec.Struct, frozen=True):
    """One replica: `argv` runs with `env` added to ours, on `devices`."""

    replica: str  #: "model/0"
    model: ModelTable
    host: str
    port: int
    devices: tuple[int, ...]
    kind: str  #: cpu, cuda, rocm, or ray: the cluster assigns devices
    argv: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def url(self) -> str:
        """URL of the replica."""
        return f"http://{self.host}:{self.port}"

    @property
    def spec(self) -> str:
        """A digest that changes if a changed file requires a restart."""
        parts = (self.argv, sorted(self.env.items()), self.devices, self.kind)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def launches(file: DeploymentFile, kind: str, host: str = "127.0.0.1") -> list[Launch]:
    """Return every replica of the file. Replicas listen on `host`; only the balancer is exposed.

    Without `devices` in the file, the GPUs that this process may use are assigned in order; CPU
    replicas are not pinned.
    """
    made, gpus = [], _gpus(kind)
    for model, first in zip(file.models, first_ports(file), strict=True):
        for index in range(model.replicas):
            devices: tuple[int, ...] = ()
            if model.devices:
                devices = tuple(model.devices[index])
            elif kind != "cpu":
                devices = tuple(islice(gpus, model.devices_per_replica))
            port, name = first + index, f"{model.served_name}/{index}"
            if file.node.ray:
                made.append(_on_ray(file.node.ray, name, model, port, kind))
                continue
            made.append(
                Launch(
                    name,
                    model,
                    host,
                    port,
                    devices,
                    kind,
                    tuple(argv(model.instance, host, port, kind)),
                    {**device_env(model.instance, devices, kind), **model.env},
                )
            )
    return made


def _gpus(kind: str) -> Iterator[int]:
    """Yield the GPUs here, then indices that do not exist, which `check_present` refuses."""
    there = sorted(present(kind)) if kind != "cpu" else []
    return chain(there, count(max(there, default=-1) + 1))


def _on_ray(address: str, name: str, model: ModelTable, port: int, kind: str) -> Launch:
    """Return a local process that represents a replica on the cluster."""
    engine = argv(model.instance, NODE_HOST, NODE_PORT, kind)
    env = sorted({*model.env, "VLLM_API_KEY"})
    line = replica_argv(address, port, need_of(model, kind), env, engine)
    return Launch(name, model, "127.0.0.1", port, (), "ray", tuple(line), dict(model.env))
