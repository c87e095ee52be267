"""The state of a deployment on disk, so that later commands work without the controller."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Literal

import msgspec

from shardwise.errors import InputError
from shardwise.files import read_limited
from shardwise.replica.processes import Process

log = logging.getLogger("shardwise.up")
Status = Literal["starting", "ready", "unready", "waiting", "draining", "gave up", "stopped"]


class ReplicaState(msgspec.Struct):
    """Last state of one replica seen by the controller."""

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
    """Last state of a deployment seen by the controller."""

    name: str
    file: str
    url: str
    balancer: str = ""
    balancer_process: Process | None = None
    balancer_restarts: int = 0
    controller: Process | None = None
    file_digest: str = ""  #: digest of the file that the controller has started
    settled: bool = False  #: whether every replica is ready or given up
    error: str = ""
    replicas: list[ReplicaState] = []


def deployment_id(file: Path) -> str:
    """Return a folder name that depends only on the path."""
    path = file.resolve()
    return f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def folder(file: Path) -> Path:
    """Return the folder with state and logs of the deployment of `file`."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "shardwise" / deployment_id(file)


def digest(path: Path) -> str:
    """Return the first 16 hex digits of the file's SHA-256."""
    return hashlib.sha256(read_limited(path)).hexdigest()[:16]


def read(where: Path) -> State | None:
    """Return the state in the folder `where`; None if there is none."""
    path = where / "state.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path}: {error}", remedy="`shardwise down` stops what it finds and removes it"
        ) from error


class Journal:
    """The state in memory and on disk. Each change is written atomically before the next action.

    If the disk is full, the error is logged, and the next change or `retry` writes again.
    """

    def __init__(self, where: Path, state: State) -> None:
        self.where, self.state = where, state
        self.lock = threading.RLock()
        self.unwritten = ""  #: why the state on disk is outdated; empty if it is not

    def write(self) -> None:
        """Replace the state file in one step."""
        with self.lock:
            partial = self.where / "state.json.partial"
            try:
                partial.write_bytes(msgspec.json.format(msgspec.json.encode(self.state)))
                partial.replace(self.where / "state.json")
            except OSError as error:
                if not self.unwritten:
                    log.error("cannot write %s: %s; trying again", self.where, error.strerror)
                self.unwritten = error.strerror or str(error)
            else:
                if self.unwritten:
                    log.info("the state is written again")
                self.unwritten = ""

    def retry(self) -> None:
        """Write the state if the last write failed."""
        if self.unwritten:
            self.write()

    def mark(self, replica: ReplicaState, status: Status, note: str = "") -> None:
        """Set a replica's status and note, and write the file if either changed."""
        with self.lock:
            if (replica.status, replica.note) != (status, note):
                replica.status, replica.note, replica.since = status, note, time.time()
            self.write()
