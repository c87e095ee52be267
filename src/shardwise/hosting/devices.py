"""The devices of this machine, and checks of a file's device lists."""

from __future__ import annotations

from collections.abc import Sequence

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.launching import Launch
from shardwise.replica.devices import present


def kind_of(file: DeploymentFile) -> str:
    """Return cpu, cuda or rocm for the file's GPU. UnknownNameError if the catalogue has none."""
    if file.node.gpu == "cpu":
        return "cpu"
    from shardwise.hardware.catalogue import default_catalogue

    vendor = default_catalogue().gpu(file.node.gpu).vendor
    return "rocm" if vendor == "amd" else "cuda"


def check_claims(made: Sequence[Launch]) -> None:
    """Raise InputError for a device used twice, or a replica with too few."""
    claimed: dict[int, str] = {}
    for launch in made:
        need = launch.model.devices_per_replica
        have = len(set(launch.devices))
        short = have != need if launch.kind not in ("cpu", "ray") else 0 < have < need
        if short:
            what = f"{launch.replica}: devices {list(launch.devices)} for TP x PP = {need}"
            raise InputError(what, f"allowed: {need} different devices")
        for device in launch.devices:
            if device in claimed:
                raise InputError(
                    f"device {device} is claimed by {claimed[device]} and {launch.replica}",
                    "each device belongs to one replica",
                )
            claimed[device] = launch.replica


def check_present(made: Sequence[Launch], kind: str) -> None:
    """Raise InputError for a device that this machine does not have."""
    here = present(kind)
    for launch in made:
        missing = [device for device in launch.devices if device not in here]
        if missing:
            listed = ", ".join(map(str, sorted(here))) or "none"
            noun = "CPU core" if kind == "cpu" else f"{kind} device"
            raise InputError(
                f"{launch.replica}: {noun} {missing[0]} does not exist", f"found here: {listed}"
            )
