"""Serve a split of the machine: one engine, or replicas behind the balancer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from shardwise.bench.machine import describe
from shardwise.bench.prompts import PromptSource, choose_source
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError
from shardwise.experiment.split import Machine, Split, devices_of, is_oversubscribed
from shardwise.hosting import deployment_file, operating, state
from shardwise.hosting.balancers.choosing import choose
from shardwise.hosting.deployment_file import DeploymentFile, ModelTable, NodeTable
from shardwise.hosting.operating import HostingError
from shardwise.replica import probing, running
from shardwise.replica.command import Instance
from shardwise.replica.running import EngineError

FIRST_PORT, LAST_PORT = 8390, 8990
READY_TIMEOUT_S: Final = 900.0
Say = Callable[[str], None]


class Served(msgspec.Struct, frozen=True):
    """A running server and its recorded conditions."""

    target: Target
    source: PromptSource
    conditions: dict[str, Any]


@contextmanager
def serving(
    split: Split, machine: Machine, instance: Instance, folder: Path, say: Say
) -> Iterator[Served]:
    """Start `instance` on `split`, and stop it at the end. Leftovers of an earlier run are stopped
    first; logs are in `folder`. EngineError or HostingError if it does not start."""
    say(f"starting {instance.engine}: {split.label}")
    start = _one if split.replicas == 1 else _several
    instance = instance.at(split.tp_size)
    with start(split, machine, instance, folder) as (url, how):
        target = parse_target(url, model=instance.served_name)
        source = choose_source(target)
        yield Served(
            target,
            source,
            {
                **how,
                "versions": running.versions(instance.python or sys.executable),
                "hardware": describe(),
                "devices": [list(each) for each in devices_of(split, machine)],
                "threads_per_rank": split.threads or None,
                "oversubscribed": is_oversubscribed(split, machine),
                "prompts": source.name,
            },
        )


def clear(folder: Path) -> None:
    """Stop leftovers of a killed earlier run."""
    running.clear(_mark(folder), folder.glob("*.log"))
    for path in folder.glob("*.deployment.toml"):
        if state.read(state.folder(path)):
            operating.down(path)


def _mark(folder: Path) -> str:
    return f"experiment {folder.resolve()}"


@contextmanager
def _one(
    split: Split, machine: Machine, instance: Instance, folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    log = folder / f"{instance.engine}-{split.slug}.log"
    log.unlink(missing_ok=True)
    devices = devices_of(split, machine)[0]
    started = running.start(instance, machine.kind, devices, free_ports(1), log, _mark(folder))
    try:
        ready_s = running.wait_ready(started, READY_TIMEOUT_S)
        yield started.url, {"argv": list(started.argv), "ready_s": round(ready_s, 1)}
    finally:
        running.stop(started)
        running.clear(_mark(folder))


@contextmanager
def _several(
    split: Split, machine: Machine, instance: Instance, folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    file = deployment(split, machine, instance, free_ports(split.replicas + 1))
    path = folder / f"{split.slug}.deployment.toml"
    deployment_file.save(file, path)
    try:
        try:
            operating.up(path, lambda _state: None)
        except HostingError as error:
            raise EngineError(str(error), _last_lines(path)) from None
        front = f"http://{file.host}:{file.port}"
        yield front, {"deployment": deployment_file.dump(file), "balancer": choose(file).name}
    finally:
        if state.read(state.folder(path)):
            operating.down(path)


def deployment(
    split: Split, machine: Machine, instance: Instance, first_port: int
) -> DeploymentFile:
    """Return the deployment file of a split, with its balancer at `first_port` and the replicas
    after it."""
    return DeploymentFile(
        name=split.slug,
        port=first_port,
        node=NodeTable(gpu="cpu" if machine.kind == "cpu" else machine.gpu),
        models=[
            ModelTable(
                model=instance.model,
                engine=instance.engine,
                tp_size=split.tp_size,
                replicas=split.replicas,
                kv_dtype=instance.kv_dtype,
                max_num_seqs=instance.limits.max_num_seqs,
                max_num_batched_tokens=instance.limits.max_num_batched_tokens,
                gpu_memory_utilization=instance.limits.gpu_memory_utilization,
                max_model_len=instance.limits.max_model_len,
                devices=[list(each) for each in devices_of(split, machine)],
                first_port=first_port + 1,
                flags=list(instance.flags),
                env=dict(instance.env),
                python=instance.python,
                ready_timeout_s=READY_TIMEOUT_S,
            )
        ],
    )


def _last_lines(path: Path) -> Sequence[str]:
    logs = sorted((state.folder(path) / "logs").glob("*.log"), key=lambda p: p.stat().st_mtime)
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    return lines[-running.LOG_LINES :]


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports. InputError if there are none."""
    for first in range(FIRST_PORT, LAST_PORT, count):
        if not any(probing.port_in_use("127.0.0.1", first + i) for i in range(count)):
            return first
    raise InputError(f"every port from {FIRST_PORT} to {LAST_PORT} is in use", "free some of them")
