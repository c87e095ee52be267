"""The interface of a balancer."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from shardwise.errors import InputError
from shardwise.hosting.launching import Launch


class Front(msgspec.Struct, frozen=True):
    """The address for clients, and the API key they must send ("": none)."""

    host: str
    port: int
    key: str = ""

    @property
    def url(self) -> str:
        """URL under which clients on this machine reach the balancer."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


def keep(path: Path, text: str) -> None:
    """Write `text` if the file differs, so that a restart on a full disk needs no space."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


class Balancer(ABC):
    """One balancer program. Its files and logs are in `folder`."""

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
        """Path of the program: next to this Python, or on the PATH."""
        beside = Path(sys.executable).with_name(cls.program)
        return str(beside) if beside.exists() else shutil.which(cls.program)

    @property
    def executable(self) -> str:
        """Path of the program. Raises InputError with the install command if it is missing."""
        found = self.path()
        if found is None:
            raise InputError(f"balancer {self.name} is not installed", self.install)
        return found

    @property
    def socket_file(self) -> Path:
        """Control socket of the program, in less than the 108 bytes of a UNIX socket path.

        It is in a folder that only this user can enter.
        """
        home = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        folder = home / f"shardwise-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise InputError(f"{folder} can be entered by others", remedy="remove it")
        return folder / f"{hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]}.sock"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of the program, including the key, which is in no file or command
        line."""
        return {}

    @abstractmethod
    def argv(self, launches: Sequence[Launch]) -> list[str]:
        """Write the program's configuration and return its command line."""

    @abstractmethod
    def apply(self, launches: Sequence[Launch], running: int) -> None:
        """Route new requests to `launches`; `running` is the program's pid.

        Started streams continue.
        """
