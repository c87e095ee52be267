"""What runs, on disk, so that any later command finds it without the controller."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Literal

import msgspec

from shardwise.errors import InputError
from shardwise.replica.processes import Process

Status = Literal["starting", "ready", "unready", "waiting", "draining", "gave up", "stopped"]


class ReplicaState(msgspec.Struct):
    """One replica as the controller last saw it."""

    replica: str
    model: str
    url: str
    devices: list[int]
    spec: str
    status: Status = "starting"
    process: Process | None = None
    restarts: int = 0
    note: str = ""
    since: float = 0.0  #: seconds since 1970 of the last change of status


class State(msgspec.Struct):
    """A deployment as the controller last saw it."""

    name: str
    file: str
    url: str
    balancer: str = ""
    balancer_process: Process | None = None
    balancer_restarts: int = 0
    controller: Process | None = None
    file_digest: str = ""  #: of the file this controller has brought up
    settled: bool = False  #: every replica is ready or has been given up
    error: str = ""
    replicas: list[ReplicaState] = []


def deployment_id(file: Path) -> str:
    """The same for the same path, and safe as a folder's name."""
    path = file.resolve()
    return f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def folder(file: Path) -> Path:
    """Where the state and logs of the deployment of `file` are."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "shardwise" / deployment_id(file)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read(where: Path) -> State | None:
    """The state kept in `where`; None if there is none."""
    path = where / "state.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: {error}", remedy="stop its processes and remove it") from error


class Journal:
    """The state in memory and on disk; each change is written whole before anything follows."""

    def __init__(self, where: Path, state: State) -> None:
        self.where, self.state = where, state
        self.lock = threading.RLock()

    def write(self) -> None:
        with self.lock:
            partial = self.where / "state.json.partial"
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(self.state)))
            partial.replace(self.where / "state.json")

    def mark(self, replica: ReplicaState, status: Status, note: str = "") -> None:
        with self.lock:
            if (replica.status, replica.note) != (status, note):
                replica.status, replica.note, replica.since = status, note, time.time()
            self.write()
