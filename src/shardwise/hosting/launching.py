"""What runs for each replica: command line, environment and devices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, first_ports
from shardwise.replica.command import argv, device_env


@dataclass(frozen=True)
class Launch:
    """One replica: `argv` runs with `env` added to ours, on `devices`."""

    replica: str  #: "model/0"
    model: ModelTable
    host: str
    port: int
    devices: tuple[int, ...]
    kind: str  #: cpu, cuda or rocm
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def spec(self) -> str:
        """A digest that changes when the replica has to be restarted for a changed file."""
        parts = (self.argv, sorted(self.env.items()), self.devices, self.kind)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def launches(file: DeploymentFile, kind: str, host: str = "127.0.0.1") -> list[Launch]:
    """Every replica of the file. Replicas listen on `host`; only the balancer is reached from out.

    Without `devices` in the file, GPUs are dealt in order; CPU replicas are not pinned.
    """
    made, next_gpu = [], 0
    for model, first in zip(file.models, first_ports(file), strict=True):
        for index in range(model.replicas):
            devices: tuple[int, ...] = ()
            if model.devices:
                devices = tuple(model.devices[index])
            elif kind != "cpu":
                devices = tuple(range(next_gpu, next_gpu + model.devices_per_replica))
                next_gpu += len(devices)
            port = first + index
            made.append(
                Launch(
                    f"{model.served_name}/{index}",
                    model,
                    host,
                    port,
                    devices,
                    kind,
                    tuple(argv(model, host, port, kind)),
                    {**device_env(model, devices, kind), **model.env},
                )
            )
    return made
