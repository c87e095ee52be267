"""Up, status and down; they work with or without a running controller."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from shardwise.errors import InputError, ShardwiseError
from shardwise.hosting import state
from shardwise.hosting.checks import check_here, check_plan
from shardwise.hosting.deployment_file import DeploymentFile, load, save
from shardwise.hosting.lock import alone, busy
from shardwise.hosting.state import ReplicaState, State
from shardwise.replica import probing, processes
from shardwise.replica.processes import Process

log = logging.getLogger("shardwise.up")
Progress = Callable[[State], None]


class HostingError(ShardwiseError):
    """A deployment that did not start, or stopped."""

    exit_code = 1


def up(path: Path, progress: Progress, on: str = "", node_file: Path | None = None) -> State:
    """Apply the file at `path`; return the state when every replica is ready or given up.

    `on` is a Ray cluster for the replicas, as ray://host:port; the balancer runs here. Replicas
    without devices in the file get GPUs by the links in `node_file`.

    Raises InputError if the file cannot run here; then nothing is started or changed. Raises
    HostingError if the controller fails or a replica is given up; the others keep serving.
    """
    file = load(path)
    if on:
        file = msgspec.structs.replace(file, node=msgspec.structs.replace(file.node, ray=on))
    if node_file is not None:
        from shardwise.hosting.placing import placed

        if file.node.ray:
            raise InputError(
                f"--node {node_file} with replicas on Ray", "", "the cluster chooses their GPUs"
            )
        file = placed(file, node_file)
    folder = state.folder(path)
    with ExitStack() as held:
        first = not folder.is_dir()
        if not first:
            held.enter_context(alone(folder))
        before = state.read(folder)
        _check(file, before)
        _make(folder)
        if first:  # the lock file is new, so another process may have been first
            held.enter_context(alone(folder))
            if state.read(folder):
                raise busy(folder)
        child, logged = _start_controller(file, path, folder, before)
        key = os.environ.get(file.api_key_env, "") if file.api_key_env else ""
        return _follow(child, folder, logged, progress, key)


def _check(file: DeploymentFile, before: State | None) -> None:
    """Raise InputError if the file cannot run here, before anything is started or written."""
    held = _held_ports(before)
    wanted = [("127.0.0.1", launch.port) for launch in check_plan(file)]
    wanted.append((file.host, file.port))
    if file.metrics_port and not (before and before.controller and before.controller.alive):
        wanted.append((file.host, file.metrics_port))
    check_here(file, [(host, port) for host, port in wanted if port not in held])


def _make(folder: Path) -> None:
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder}: {error.strerror}",
            remedy="set XDG_STATE_HOME to a folder that can be written",
        ) from None


def _start_controller(
    file: DeploymentFile, path: Path, folder: Path, before: State | None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a controller; return it and the log position of its first line."""
    if before and before.controller:
        _end_controller(before.controller)
    save(file, folder / "deployment.toml")
    log = folder / "logs" / "controller.log"
    logged = log.stat().st_size if log.exists() else 0
    line = [sys.executable, "-m", "shardwise.hosting.controller", str(path.resolve())]
    return processes.spawn(line, {}, log, state.deployment_id(path)), logged


def _held_ports(before: State | None) -> set[int]:
    """Return the ports used by our own processes."""
    if before is None:
        return set()
    held = {_port(r.url) for r in before.replicas if r.process and r.process.alive}
    if before.balancer_process and before.balancer_process.alive:
        held.add(_port(before.url))
    return held


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _end_controller(controller: Process) -> None:
    processes.tell(controller, signal.SIGTERM)
    deadline = time.monotonic() + 5.0
    while controller.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.kill_all([controller])


def _follow(
    child: subprocess.Popen[bytes], folder: Path, logged: int, progress: Progress, key: str
) -> State:
    while True:
        now = state.read(folder)
        if now and now.controller and now.controller.pid == child.pid:
            progress(now)
            if now.error:
                raise HostingError(f"{now.error}; see {folder / 'logs'}")
            if now.settled:
                lost = [r for r in now.replicas if r.status == "gave up"]
                if lost:
                    raise HostingError(
                        f"{len(lost)} of {len(now.replicas)} replicas were given up: "
                        f"{lost[0].replica}: {lost[0].note}; see {folder / 'logs'}"
                    )
                _wait_front(now.url, folder, key)
                return now
        if child.poll() is not None:
            raise HostingError(_how_it_ended(child.returncode, folder, logged))
        time.sleep(0.1)


def _how_it_ended(code: int, folder: Path, logged: int) -> str:
    """Return the controller's last log line that gives a reason."""
    if code <= 0:  # exit code 0 means SIGTERM
        return "the controller was stopped before every replica was ready, as `shardwise down` does"
    text = (folder / "logs" / "controller.log").read_bytes()[logged:].decode(errors="replace")
    last = text.strip().splitlines()[-1:] or [f"exit code {code}"]
    return f"the controller ended: {last[0][-300:]}"


def _wait_front(url: str, folder: Path, key: str, timeout_s: float = 15.0) -> None:
    """Wait until the balancer has a healthy replica. The key is sent, because the balancer itself
    refuses requests without one."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if probing.request(url, "/v1/models", key=key)[0] in (200, 404):
            return
        time.sleep(0.1)
    log = folder / "logs" / "balancer.log"
    raise HostingError(f"the balancer does not answer on {url}; see {log}")


class Seen(msgspec.Struct, frozen=True):
    """The current state of one replica."""

    state: ReplicaState
    status: str
    memory_bytes: int
    in_flight: int | None


def look(path: Path) -> tuple[State, list[Seen]]:
    """Return the current state, queried from the processes. InputError if nothing was started."""
    now = _require(path)
    engines = {m.served_name: m.engine for m in load(state.folder(path) / "deployment.toml").models}
    seen = []
    for replica in now.replicas:
        alive = replica.process is not None and replica.process.alive
        status: str = replica.status
        if status == "ready" and not alive:
            status = "dead"
        elif status == "ready" and not probing.healthy(replica.url):
            status = "unready"
        memory = processes.memory_bytes(replica.process) if alive and replica.process else 0
        busy = probing.in_flight(replica.url, engines.get(replica.model, "")) if alive else None
        seen.append(Seen(replica, status, memory, busy))
    return now, seen


def _require(path: Path) -> State:
    found = state.read(state.folder(path))
    if found is None:
        raise _nothing_started(path)
    return found


def _nothing_started(path: Path) -> InputError:
    return InputError(f"nothing was started from {path}", remedy=f"shardwise up {path}")


def down(path: Path, grace_s: float = 30.0) -> int:
    """Stop all processes of the deployment; return their number.

    This includes processes whose state was not written. InputError if nothing was started from
    `path`.
    """
    folder = state.folder(path)
    now = _state_left(folder)
    if now and now.controller:
        _end_controller(now.controller)
        now = _state_left(folder)  # it may have started another process
    leaders = processes.recorded((folder / "logs").glob("*.log"))
    if now:
        leaders += [r.process for r in now.replicas if r.process]
        leaders += [now.balancer_process] if now.balancer_process else []
    found = {*processes.marked(state.deployment_id(path))}
    if not found and not leaders and not (folder / "state.json").exists():
        raise _nothing_started(path)
    for leader in leaders:
        found.update([leader, *processes.session(leader)])
    alive = [process for process in found if process.alive]
    for process in leaders if now else found:
        processes.tell(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(process.alive for process in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.kill_all([*found, *processes.marked(state.deployment_id(path))])
    (folder / "state.json").unlink(missing_ok=True)
    return len(alive)


def _state_left(folder: Path) -> State | None:
    """Return the state if it is readable. Processes can be found without it."""
    try:
        return state.read(folder)
    except InputError as error:
        log.warning("%s", error)
        return None
