"""Export a deployment file to other systems as text files; nothing is started."""

from __future__ import annotations

from typing import Final

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile

#: Targets that start all replicas on one machine.
_ONE_NODE: Final = ("compose", "systemd")


def export(file: DeploymentFile, target: str) -> dict[str, str]:
    """Return file name -> text. InputError if `target` cannot express the deployment."""
    from shardwise.hosting.checks import check_plan, require_one_node
    from shardwise.hosting.exports import compose, grafana, kubernetes, ray_serve, systemd

    made = check_plan(file)
    writers = {
        "compose": compose.write,
        "systemd": systemd.write,
        "kubernetes": kubernetes.write,
        "ray": ray_serve.write,
        "grafana": grafana.write,
    }
    if target not in writers:
        raise InputError(f"export to {target!r}", f"allowed: {', '.join(writers)}")
    if target in _ONE_NODE:
        require_one_node(file, target)
    return writers[target](file, made)
