"""What every balancer offers, and which one is taken."""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shardwise.errors import InputError
from shardwise.hosting.deployment_file import DeploymentFile
from shardwise.hosting.launching import Launch


@dataclass(frozen=True)
class Front:
    """The address clients use, and the key they must send ("": none)."""

    host: str
    port: int
    key: str = ""

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


class Balancer(ABC):
    """One program. Its files and logs are in `folder`."""

    name: ClassVar[str]
    program: ClassVar[str]
    install: ClassVar[str]
    several_models: ClassVar[bool] = False
    checks_keys: ClassVar[bool] = False
    starts_before_replicas: ClassVar[bool] = True

    def __init__(self, folder: Path, front: Front) -> None:
        self.folder, self.front = folder, front

    @classmethod
    def path(cls) -> str | None:
        """Where the program is: beside this Python, or on the PATH."""
        beside = Path(sys.executable).with_name(cls.program)
        return str(beside) if beside.exists() else shutil.which(cls.program)

    @property
    def executable(self) -> str:
        found = self.path()
        if found is None:
            raise InputError(f"balancer {self.name} is not installed", self.install)
        return found

    @property
    def env(self) -> dict[str, str]:
        """Variables for the program; the key goes this way, and into no file or command line."""
        return {}

    @abstractmethod
    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Write what the program reads, and return its command line."""

    @abstractmethod
    def apply(self, launches: Sequence[Launch], running: int) -> None:
        """Make `launches` the replicas that get new requests; `running` is the program's pid.

        Streams already begun go on.
        """


def known() -> dict[str, type[Balancer]]:
    """Adapters by name, in the order "auto" tries them."""
    from shardwise.hosting.balancers.caddy import Caddy
    from shardwise.hosting.balancers.haproxy import HAProxy
    from shardwise.hosting.balancers.routers import Smg, VllmRouter

    return {kind.name: kind for kind in (HAProxy, Caddy, VllmRouter, Smg)}


def choose(file: DeploymentFile) -> type[Balancer]:
    """The adapter for `file`. InputError if it is not installed or cannot do what is asked."""
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
