"""`up`, `status`, `down`, `export`: run a deployment file on this machine, or translate it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from shardwise.api.extras import HOST, require_modules
from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.hosting.operating import Seen
    from shardwise.hosting.state import State
    from shardwise.reports.table import Table

GRACE_S = 30.0


class DeploymentStatus(Result):
    """State of each replica of a deployment, and of its balancer."""

    kind = "status"

    def __init__(self, state: State, replicas: Sequence[Seen]) -> None:
        self.state = state
        self.replicas = tuple(replicas)  #: status, memory and requests in flight of each replica

    @property
    def url(self) -> str:
        """URL that clients use."""
        return self.state.url

    @property
    def is_balancing(self) -> bool:
        """Whether the balancer runs."""
        process = self.state.balancer_process
        return bool(process and process.alive)

    @property
    def is_supervised(self) -> bool:
        """Whether the controller runs, which restarts replicas."""
        return bool(self.state.controller and self.state.controller.alive)

    @property
    def is_ready(self) -> bool:
        """Whether the balancer runs and every replica is ready."""
        return self.is_balancing and all(one.status == "ready" for one in self.replicas)

    def tables(self) -> list[Table]:
        """Return one row per replica."""
        from shardwise.reports.status_tables import status_table

        return [status_table(self.state, self.replicas)]

    def _answer(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "balancer": self.state.balancer,
            "balancer_running": self.is_balancing,
            "controller_running": self.is_supervised,
            "replicas": [_replica(one) for one in self.replicas],
        }


def _replica(one: Seen) -> dict[str, Any]:
    return {
        "replica": one.state.replica,
        "status": one.status,
        "pid": one.state.process.pid if one.state.process else None,
        "url": one.state.url,
        "devices": one.state.devices,
        "memory_bytes": one.memory_bytes,
        "in_flight": one.in_flight,
        "restarts": one.state.restarts,
        "note": one.state.note,
    }


class RunningDeployment:
    """A deployment whose replicas are ready. As a context manager, it is brought down at the end.

    Without `with`, it keeps running, also after Python exits, until `down`.
    """

    def __init__(self, file: Path, state: State, grace_s: float = GRACE_S) -> None:
        self.file = file
        self.state = state  #: as it was when every replica was ready
        self._grace_s = grace_s

    @property
    def url(self) -> str:
        """URL that clients use; OpenAI clients append `/v1`."""
        return self.state.url

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in requests."""
        return tuple(dict.fromkeys(replica.model for replica in self.state.replicas))

    def status(self) -> DeploymentStatus:
        """Return the current state of each replica."""
        return status(self.file)

    def down(self) -> int:
        """Stop everything that was started; return the number of processes."""
        return down(self.file, grace_s=self._grace_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def __repr__(self) -> str:
        return f"<RunningDeployment {', '.join(self.models)} on {self.url}>"


def up(
    file: AnyPath,
    *,
    on: str = "",
    node_file: AnyPath | None = None,
    grace_s: float = GRACE_S,
    say: Callable[[str], None] = lambda _: None,
) -> RunningDeployment:
    """Start the replicas and the balancer of a deployment file, or apply its changes.

    Returns when every replica has answered a request. Use it in a `with` statement to bring the
    deployment down at the end of the block, also after an exception.

    Args:
        file: Deployment file, e.g. one that `plan(...).save(file)` wrote.
        on: Ray cluster for the replicas, as ray://host:port; "" is this machine.
        node_file: Node file that `shardwise doctor --save` wrote. Replicas for which `file` names
            no devices get the GPUs with the best links.
        grace_s: Seconds to wait for running streams when it is brought down.
        say: Called with a line when the status of a replica changes.

    Raises:
        InputError: The file cannot run here; nothing is started or changed.
        ShardwiseError: The controller failed or a replica was given up; the others keep serving
            until `down(file)`.
    """
    require_modules(HOST, "host")
    from shardwise.hosting.operating import up as bring_up

    shown: set[tuple[str, str]] = set()

    def progress(now: State) -> None:
        for one in now.replicas:
            if (one.replica, one.status) not in shown:
                shown.add((one.replica, one.status))
                say(f"{one.replica} {one.status}{f': {one.note}' if one.note else ''}")

    file = Path(file)
    node = Path(node_file) if node_file is not None else None
    return RunningDeployment(file, bring_up(file, progress, on, node), grace_s)


def status(file: AnyPath) -> DeploymentStatus:
    """Return the state of each replica of a deployment, asked of its processes.

    Args:
        file: The deployment file that was given to `up`.

    Raises:
        InputError: Nothing was started from this file.
    """
    require_modules(HOST, "host")
    from shardwise.hosting.operating import look

    return DeploymentStatus(*look(Path(file)))


def down(file: AnyPath, *, grace_s: float = GRACE_S) -> int:
    """Stop everything that `up` started for a deployment file.

    Args:
        file: The deployment file that was given to `up`.
        grace_s: Seconds to wait for running streams.

    Returns:
        The number of stopped processes.

    Raises:
        InputError: Nothing was started from this file.
    """
    require_modules(HOST, "host")
    from shardwise.hosting.operating import down as bring_down

    return bring_down(Path(file), grace_s)


def export(
    file: AnyPath,
    *,
    to: Literal["compose", "systemd", "kubernetes", "ray", "grafana"],
    folder: AnyPath | None = None,
    node_file: AnyPath | None = None,
) -> dict[str, str]:
    """Translate a deployment file for another system. Nothing is started.

    Args:
        file: The deployment file.
        to: Docker Compose, systemd units, Kubernetes manifests, Ray Serve, or a Grafana dashboard.
        folder: Where to write the files; None writes nothing.
        node_file: Node file that `shardwise doctor --save` wrote. Replicas for which `file` names
            no devices get the GPUs with the best links.

    Returns:
        The text of each file by its name.

    Raises:
        InputError: `to` cannot express the deployment, or `folder` cannot be written.
    """
    require_modules(HOST, "host")
    from shardwise.hosting.deployment_file import load
    from shardwise.hosting.exports import export as translate

    deployment = load(Path(file))
    if node_file is not None:
        from shardwise.hosting.placing import placed

        deployment = placed(deployment, Path(node_file))
    files = translate(deployment, to)
    if folder is not None:
        _write(files, Path(folder))
    return files


def _write(files: dict[str, str], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
