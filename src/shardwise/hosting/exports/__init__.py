"""Export a deployment file to other systems as text files; nothing is started."""

from __future__ import annotations

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile


def export(file: DeploymentFile, target: str) -> dict[str, str]:
    """Return file name -> text. InputError if `target` cannot express the deployment."""
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
