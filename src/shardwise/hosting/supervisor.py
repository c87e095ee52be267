"""Supervise one replica: start, wait until ready, watch, restart with back-off, give up."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from shardwise.errors import InputError
from shardwise.hosting.launching import Launch
from shardwise.hosting.liveness import HEALTH_EVERY_S, Liveness
from shardwise.hosting.state import Journal, ReplicaState, Status
from shardwise.replica import probing, processes
from shardwise.replica.processes import Process

MAX_FAILURES: Final = 5  #: consecutive failures without STABLE_S of service between them
MAX_START_FAILURES: Final = 2  #: if it was never ready, e.g. because of a wrong flag
STABLE_S: Final = 60.0
MAX_BACKOFF_S: Final = 60.0
POLL_S: Final = 0.2
log = logging.getLogger("shardwise.up")


class Surroundings(msgspec.Struct, frozen=True):
    """Data shared by all supervisors of a deployment."""

    folder: Path
    deployment: str
    key: str
    journal: Journal
    stop_grace_s: float = 30.0


class Ended(msgspec.Struct, frozen=True):
    """Why a replica ended."""

    problem: str
    heals: bool = (
        False  #: a port in use or a full disk: not caused by the replica, and maybe temporary
    )


def backoff_s(failures: int) -> float:
    """Return the back-off: 1, 2, 4 … 60 s after the first, second, third … consecutive failure."""
    return float(min(MAX_BACKOFF_S, 2.0 ** min(failures - 1, 30)))


def log_file(folder: Path, replica: str) -> Path:
    """Return the log file of `replica`."""
    return folder / "logs" / f"{replica.replace('/', '-')}.log"


class Supervisor(threading.Thread):
    """Keeps one replica running. When the supervisor is stopped, the replica keeps running."""

    def __init__(self, launch: Launch, state: ReplicaState, around: Surroundings) -> None:
        super().__init__(name=launch.replica, daemon=True)
        self.launch, self.state, self.around = launch, state, around
        self.settled = threading.Event()  #: set when the replica was ready once, or is given up
        self._let_go = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._failures = 0

    def run(self) -> None:
        """Start the replica, wait until it ends, and restart it, until stopped."""
        while not self._let_go.is_set():
            ended = self._attempt()
            if self._let_go.is_set():
                return
            self._failures += 1
            allowed = MAX_FAILURES if self.settled.is_set() else MAX_START_FAILURES
            if self._failures >= allowed and not (ended.heals and self.settled.is_set()):
                note = f"{self._failures} failures in a row, the last: {ended.problem}"
                log.error("%s: gave up after %s", self.launch.replica, note)
                self._mark("gave up", note)
                self.settled.set()
                return
            delay = backoff_s(self._failures)
            log.warning("%s: %s; restart in %.0f s", self.launch.replica, ended.problem, delay)
            self._mark("waiting", f"{ended.problem}; restart in {delay:.0f} s")
            if self._let_go.wait(delay):
                return
            self.state.restarts += 1

    def _attempt(self) -> Ended:
        """Run the replica once and clean up after it. No error ends the supervisor."""
        try:
            ended = self._serve()
            if not self._let_go.is_set():
                self._clean_up()
            return ended
        except Exception as error:
            log.exception("%s", self.launch.replica)
            return Ended(f"{type(error).__name__}: {error}", heals=True)

    def let_go(self) -> None:
        """Stop watching; the process keeps running."""
        self._let_go.set()
        if self.is_alive():
            self.join(timeout=90.0)

    def stop(self) -> None:
        """Let the process finish its requests, then stop it."""
        self.let_go()
        self._mark("draining")
        self._drain()
        self._clean_up(self.around.stop_grace_s)
        self._mark("stopped")

    def _serve(self) -> Ended:
        """Supervise the process from start (or adoption) to its end; return why it ended."""
        try:
            if not self._alive():
                self._start()
        except InputError as error:
            return Ended(str(error), heals=True)
        problem = self._wait_ready()
        return Ended(problem or self._watch())

    def _start(self) -> None:
        self._clean_up()  # ranks of the previous process may still use the devices
        if probing.port_in_use(self.launch.host, self.launch.port):
            raise InputError(f"port {self.launch.port} is in use")
        env, key = dict(self.launch.env), self.around.key
        if key and self.launch.model.engine == "vllm":
            env["VLLM_API_KEY"] = key
        self._child = processes.spawn(
            self.launch.argv,
            env,
            log_file(self.around.folder, self.launch.replica),
            self.around.deployment,
            self.launch.devices if self.launch.kind == "cpu" else (),
        )
        self.state.process = Process.of(self._child.pid)
        self._mark("starting")

    def _alive(self) -> bool:
        if self._child:
            return self._child.poll() is None  # also reaps the process
        return self.state.process is not None and self.state.process.alive

    def _ending(self) -> str:
        code = self._child.returncode if self._child else None
        if code is None:
            return "the process ended"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _wait_ready(self) -> str:
        deadline = time.monotonic() + self.launch.model.ready_timeout_s
        answer = "no answer"
        while not self._let_go.is_set():
            if not self._alive():
                return f"{self._ending()} before it was ready"
            if probing.healthy(self.launch.url):
                answer = probing.complete(
                    self.launch.url,
                    self.launch.model.served_name,
                    self.launch.model.task,
                    self.around.key,
                )
                if not answer:
                    break
            if time.monotonic() > deadline:
                return f"not ready in {self.launch.model.ready_timeout_s:g} s: {answer}"
            self._let_go.wait(POLL_S)
        else:
            return ""
        self._mark("ready")
        self.settled.set()
        return ""

    def _watch(self) -> str:
        ready_at = time.monotonic()
        next_look = ready_at
        liveness = Liveness(self.launch, self.around.key)
        while not self._let_go.wait(POLL_S):
            if not self._alive():
                return self._ending()
            now = time.monotonic()
            if now - ready_at > STABLE_S:
                self._failures = 0
            if now < next_look:
                continue
            next_look = now + HEALTH_EVERY_S
            verdict = liveness.look()
            if verdict.hangs and self._alive():
                return verdict.trouble
            self._mark("unready" if verdict.trouble else "ready", verdict.trouble)
        return ""

    def _drain(self) -> None:
        """Wait until nothing is in flight (checked twice, because a request may be on its way),
        with a time limit."""
        deadline, idle = time.monotonic() + self.around.stop_grace_s, 0
        while idle < 2 and self._alive() and time.monotonic() < deadline:
            time.sleep(0.3)
            busy = probing.in_flight(self.launch.url, self.launch.model.engine)
            if busy is None:
                busy = processes.connections(self.launch.port)
            idle = idle + 1 if busy == 0 else 0

    def _clean_up(self, grace_s: float = 2.0) -> None:
        if self.state.process:
            processes.stop(self.state.process, grace_s)
        if self._child:
            self._child.wait()
        self._child = self.state.process = None

    def _mark(self, status: Status, note: str = "") -> None:
        self.around.journal.mark(self.state, status, note)
