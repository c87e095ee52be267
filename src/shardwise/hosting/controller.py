"""The controller: applies a deployment file and keeps its replicas running.

It can be stopped or killed at any time: replicas and balancer keep running, and the next
controller adopts them.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shardwise.errors import InputError
from shardwise.hosting import state
from shardwise.hosting.balancers.adapter import Balancer, Front, keep
from shardwise.hosting.balancers.choosing import choose
from shardwise.hosting.deployment_file import DeploymentFile, load
from shardwise.hosting.devices import kind_of
from shardwise.hosting.launching import Launch, launches
from shardwise.hosting.metrics_endpoint import serve_metrics
from shardwise.hosting.state import Journal, ReplicaState, State
from shardwise.hosting.supervisor import Supervisor, Surroundings, backoff_s, log_file
from shardwise.replica import processes
from shardwise.replica.processes import Process

log = logging.getLogger("shardwise.up")


class Controller:
    """The controller of one deployment; `folder` has its state, logs and a copy of its file."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.folder, self.deployment = folder, state.deployment_id(path)
        self.file: DeploymentFile = load(folder / "deployment.toml")
        key = os.environ.get(self.file.api_key_env, "") if self.file.api_key_env else ""
        self.front = Front(self.file.host, self.file.port, key)
        before = state.read(folder)
        self.before = {r.replica: r for r in before.replicas} if before else {}
        now = State(self.file.name, str(path), self.front.url)
        now.controller = Process.of(os.getpid())
        now.file_digest = state.digest(folder / "deployment.toml")
        now.replicas = list(self.before.values())
        if before:
            now.balancer, now.balancer_process = before.balancer, before.balancer_process
            now.balancer_restarts = before.balancer_restarts
        self.journal = Journal(folder, now)
        self.around = Surroundings(folder, self.deployment, key, self.journal)
        self.supervisors: dict[str, Supervisor] = {}
        self.balancer: Balancer = choose(self.file)(folder, self.front)
        self._balancer_child: subprocess.Popen[bytes] | None = None
        self.leaving = threading.Event()

    def run(self) -> None:
        """Run until SIGTERM, which leaves everything else running."""
        self.journal.write()
        if self.journal.unwritten:
            raise InputError(f"cannot write {self.folder}: {self.journal.unwritten}")
        wanted = launches(self.file, kind_of(self.file))
        changed = self._adopt_or_start(wanted)
        removed = [r for name, r in self.before.items() if name not in self.supervisors]
        self._balance(wanted)
        self._wait_settled()
        for launch in changed:
            self._roll(launch, wanted)
        for replica in removed:
            self._remove(replica)
        with self.journal.lock:
            order = [launch.replica for launch in wanted]
            self.journal.state.replicas = [self.supervisors[name].state for name in order]
            self.journal.state.settled = True
        self.journal.write()
        log.info("settled")
        if self.file.metrics_port:
            serve_metrics(self.file, self.journal)
        self._watch_balancer(wanted)

    def _adopt_or_start(self, wanted: Sequence[Launch]) -> list[Launch]:
        """Start supervisors for all replicas; return launches that still run with an older file."""
        changed = []
        fresh = []
        for launch in wanted:
            old = self.before.get(launch.replica)
            running = old and old.process and old.process.alive
            if old and running and old.spec != launch.spec:
                changed.append(launch)
                now = old
            else:
                now = ReplicaState(
                    launch.replica,
                    launch.model.served_name,
                    launch.url,
                    list(launch.devices),
                    launch.spec,
                    process=old.process if old and running else None,
                    restarts=old.restarts if old else 0,
                )
                fresh.append((launch, now))
            self.supervisors[launch.replica] = Supervisor(launch, now, self.around)
        with self.journal.lock:
            kept = [r for name, r in self.before.items() if name not in self.supervisors]
            self.journal.state.replicas = [k.state for k in self.supervisors.values()] + kept
        self.journal.write()
        for launch, _ in fresh:
            self.supervisors[launch.replica].start()
        return changed

    def _wait_settled(self) -> None:
        for supervisor in self.supervisors.values():
            while supervisor.is_alive() and not supervisor.settled.wait(0.1):
                if self.leaving.is_set():
                    sys.exit(0)

    def _roll(self, launch: Launch, wanted: Sequence[Launch]) -> None:
        """Replace one replica with its new configuration while the others serve."""
        log.info("%s: restarting with the changed file", launch.replica)
        others = [other for other in wanted if other is not launch]
        if others:
            self.balancer.apply(others, self._balancer_pid())
        old = self.supervisors[launch.replica]
        old.stop()
        now = msgspec.structs.replace(old.state, spec=launch.spec, devices=list(launch.devices))
        now.url = launch.url
        with self.journal.lock:
            listed = self.journal.state.replicas
            listed[listed.index(old.state)] = now
        supervisor = self.supervisors[launch.replica] = Supervisor(launch, now, self.around)
        supervisor.start()
        self._wait_settled()
        self.balancer.apply(wanted, self._balancer_pid())

    def _remove(self, replica: ReplicaState) -> None:
        """Stop a replica, already removed from the balancer, after it finishes its requests."""
        if replica.process:
            log.info("%s: no longer in the file, stopping", replica.replica)
            processes.drain_connections(int(replica.url.rpartition(":")[2]), 30.0)
            processes.stop(replica.process, self.around.stop_grace_s)

    def _balance(self, wanted: Sequence[Launch]) -> None:
        now = self.journal.state
        running = now.balancer_process and now.balancer_process.alive
        changed_address = False
        if running and now.balancer_process:
            old_url = (self.folder / "front").read_text() if self._front_file.exists() else ""
            changed_address = old_url != self.front.url
            if now.balancer == self.balancer.name and not changed_address:
                self.balancer.apply(wanted, now.balancer_process.pid)
                return
            processes.stop(now.balancer_process, 5.0)
        if not self.balancer.starts_before_replicas:
            self._wait_settled()
        self._start_balancer(wanted)

    @property
    def _front_file(self) -> Path:
        return self.folder / "front"

    def _start_balancer(self, wanted: Sequence[Launch]) -> None:
        line = self.balancer.argv(wanted)
        logs = log_file(self.folder, "balancer")
        child = processes.spawn(line, self.balancer.env, logs, self.deployment)
        self._balancer_child = child
        keep(self._front_file, self.front.url)
        with self.journal.lock:
            self.journal.state.balancer = self.balancer.name
            self.journal.state.balancer_process = Process.of(child.pid)
        self.journal.write()

    def _balancer_pid(self) -> int:
        running = self.journal.state.balancer_process
        return running.pid if running else 0

    def _watch_balancer(self, wanted: Sequence[Launch]) -> None:
        failures, started = 0, time.monotonic()
        while not self.leaving.wait(0.5):
            self.journal.retry()
            child, kept = self._balancer_child, self.journal.state.balancer_process
            alive = child.poll() is None if child else bool(kept and kept.alive)
            if alive:
                if time.monotonic() - started > 60:
                    failures = 0
                continue
            failures += 1
            log.error("balancer %s ended; restart", self.balancer.name)
            if kept:
                processes.kill_all(processes.session(kept))  # workers of a killed master
            if self.leaving.wait(backoff_s(failures) - 1):
                return
            self.journal.state.balancer_restarts += 1
            started = time.monotonic()
            try:
                self._start_balancer(wanted)
            except (InputError, OSError) as error:  # a full disk may be temporary
                log.error("balancer %s: %s", self.balancer.name, error)


def main(path: Path) -> None:
    """Main function of the process `python -m shardwise.hosting.controller FILE`."""
    folder = state.folder(path)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    controller: Controller | None = None
    try:
        controller = Controller(path, folder)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        controller.run()
    except (InputError, OSError) as error:
        log.error("%s", error)
        if controller:
            controller.journal.state.error = str(error)
            controller.journal.write()
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
