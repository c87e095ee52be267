"""The deployment file in the terms of other systems: text files by name, nothing started."""

from __future__ import annotations

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile


def export(file: DeploymentFile, target: str) -> dict[str, str]:
    """File name -> text. InputError if the deployment cannot be said in `target`'s terms."""
    from shardwise.hosting.checks import check_plan
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
    return writers[target](file, made)
