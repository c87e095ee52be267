"""Choose a balancer."""

from __future__ import annotations

from shardwise.errors import InputError
from shardwise.hosting.balancers.adapter import Balancer
from shardwise.hosting.balancers.caddy import Caddy
from shardwise.hosting.balancers.haproxy import HAProxy
from shardwise.hosting.balancers.routers import Smg, VllmRouter
from shardwise.hosting.deployment_file import DeploymentFile


def known() -> dict[str, type[Balancer]]:
    """Return adapters by name, in the order of "auto"."""
    return {kind.name: kind for kind in (HAProxy, Caddy, VllmRouter, Smg)}


def choose(file: DeploymentFile) -> type[Balancer]:
    """Return the adapter for `file`. InputError if it is not installed or lacks a capability."""
    adapters = known()
    if file.balancer == "auto":
        able = [kind for kind in adapters.values() if not _lacks(kind, file)]
        for kind in able:
            if kind.name != "smg" and kind.path():
                return kind
        remedy = " or ".join(kind.install for kind in able if kind.name != "smg")
        raise InputError("no balancer is installed for this deployment", remedy)
    chosen = adapters[file.balancer]
    if lacks := _lacks(chosen, file):
        able_names = [kind.name for kind in adapters.values() if not _lacks(kind, file)]
        raise InputError(
            f"balancer {chosen.name} cannot {lacks}", f"allowed here: {', '.join(able_names)}"
        )
    if not chosen.path():
        raise InputError(f"balancer {chosen.name} is not installed", chosen.install)
    return chosen


def _lacks(kind: type[Balancer], file: DeploymentFile) -> str:
    if len(file.models) > 1 and not kind.several_models:
        return f"route {len(file.models)} models"
    if file.api_key_env and not kind.checks_keys:
        return "ask clients for an API key"
    return ""
