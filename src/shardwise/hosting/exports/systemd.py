"""systemd: one unit per replica, one for the balancer, and a target for all of them.

systemd restarts failed units. Source:
https://www.freedesktop.org/software/systemd/man/systemd.service
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shardwise.hosting.balancers.adapter import Front
from shardwise.hosting.balancers.haproxy import KEY_VARIABLE, HAProxy
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.exports.compose import service_name
from shardwise.hosting.exports.images import api_key_variable
from shardwise.hosting.launching import Launch


def write(file: DeploymentFile, made: Sequence[Launch]) -> dict[str, str]:
    """Return units and haproxy.cfg, to be copied to /etc/systemd/system."""
    name = file.name
    units = {f"{name}-{service_name(launch)}.service": _replica(file, launch) for launch in made}
    folder = Path("/run") / name
    front = Front(file.host, file.port, "from the environment" if file.api_key_env else "")
    units[f"{name}.haproxy.cfg"] = HAProxy(folder, front).config(made)
    units[f"{name}-balancer.service"] = _unit(
        name,
        "load balancer",
        [
            "Type=notify",
            f"RuntimeDirectory={name}",
            *_key(file, KEY_VARIABLE),
            f"ExecStart=/usr/sbin/haproxy -Ws -f /etc/systemd/system/{name}.haproxy.cfg",
            "ExecReload=/bin/kill -USR2 $MAINPID",
            "KillMode=mixed",
        ],
    )
    wants = " ".join(unit for unit in units if unit.endswith(".service"))
    units[f"{name}.target"] = (
        f"[Unit]\nDescription={name}: all replicas and the balancer\nWants={wants}\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    return units


def _replica(file: DeploymentFile, launch: Launch) -> str:
    env = [f"Environment={_quoted(f'{key}={value}')}" for key, value in sorted(launch.env.items())]
    pinned = launch.kind == "cpu" and launch.devices
    cores = " ".join(map(str, launch.devices))
    variable = api_key_variable(launch)
    key = _key(file, variable) if variable else []
    lines = [
        *env,
        *key,
        *([f"CPUAffinity={cores}"] if pinned else []),
        f"ExecStart={' '.join(_quoted(part) for part in launch.argv)}",
        "KillMode=mixed",
    ]
    return _unit(file.name, f"replica {launch.replica}", lines)


def _key(file: DeploymentFile, variable: str) -> list[str]:
    """Return the lines for the API key, which is in a file that only root can read."""
    if not file.api_key_env:
        return []
    return [f"# holds {variable}=<the key>", f"EnvironmentFile=/etc/{file.name}.env"]


def _unit(name: str, what: str, service: Sequence[str]) -> str:
    lines = [
        "[Unit]",
        f"Description={name}: {what}",
        "After=network-online.target",
        f"PartOf={name}.target",
        # back-off of 1 to 60 s as in `shardwise up`; gives up after ten restarts in ten minutes
        "StartLimitIntervalSec=600",
        "StartLimitBurst=10",
        "",
        "[Service]",
        *service,
        "Restart=on-failure",
        "RestartSec=1",
        "TimeoutStopSec=60",
    ]
    return "\n".join(lines) + "\n"


def _quoted(part: str) -> str:
    part = part.replace("%", "%%").replace("$", "$$")
    if any(c in part for c in " \t\"'\\;"):
        escaped = part.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return part
