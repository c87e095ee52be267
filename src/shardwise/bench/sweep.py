"""A sweep: start an engine at each TP, measure every workload, and store each finished cell.

A rerun measures only the missing cells.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shardwise.bench.cell import Effort, Subject, arrange, measure, offered
from shardwise.bench.keeping import keep
from shardwise.bench.machine import describe
from shardwise.bench.prompts import PromptSource, choose_source
from shardwise.bench.target import Api, Target, parse_target
from shardwise.errors import InputError
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Source
from shardwise.evidence.store import Store
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.replica import running
from shardwise.replica.command import Instance
from shardwise.workload.workload import Workload

Say = Callable[[str], None]
_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  #: of vLLM and SGLang


class Engine(msgspec.Struct, frozen=True):
    """The engine of a sweep: `instance` at TP=1, and its devices."""

    instance: Instance
    weight_dtype: str
    gpu: str  #: name of the hardware in evidence
    kind: str  #: cpu, cuda or rocm
    devices: tuple[int, ...]  #: GPUs, or CPU cores
    port: int = 8390
    ready_timeout_s: float = 600.0

    def instance_of(self, tp_size: int, max_num_seqs: int) -> Instance:
        """Return the instance at a TP, with max_num_seqs for the requests in flight."""
        flags = [*self.instance.flags, *_dtype_flags(self.instance.engine, self.weight_dtype)]
        sized = self.instance.at(tp_size).for_sequences(max_num_seqs)
        return replace(sized, flags=tuple(flags))

    def devices_of(self, tp_size: int) -> tuple[int, ...]:
        """Return the devices at a TP: one GPU per rank, or CPU cores.

        CPU ranks share all cores at every TP, so TP values are compared at equal total threads.
        Each rank gets the same number; a remainder is unused.
        """
        if self.kind != "cpu":
            if tp_size > len(self.devices):
                raise InputError(
                    f"TP={tp_size} on {len(self.devices)} GPUs", "allowed: as many as there are"
                )
            return self.devices[:tp_size]
        each = max(1, len(self.devices) // tp_size)
        return self.devices[: each * tp_size]


def _dtype_flags(engine: str, dtype: str) -> list[str]:
    if dtype == "auto":
        return []
    return ["--dtype", dtype if engine == "builtin" else _DTYPES.get(dtype, dtype)]


class Sweep(msgspec.Struct, frozen=True):
    """Combinations of every TP and every workload."""

    study: str
    model: str  #: name of the model in evidence
    tp_sizes: tuple[int, ...]
    workloads: tuple[Workload, ...]
    effort: Callable[[Workload], Effort]
    seed: int = 0
    shared_prefix: int = 0
    api: Api = "completions"
    exact: bool = True  #: False: answers may have any length


def key_of(sweep: Sweep, engine: Engine, tp_size: int, workload: Workload) -> str:
    """Return the key of a cell: its description, and a digest of everything else that affects its
    values."""
    effort = sweep.effort(workload)
    rest: tuple[Any, ...] = (engine.instance, engine.weight_dtype, engine.devices)
    rest += (effort, sweep.seed, sweep.api, sweep.exact)
    digest = hashlib.sha256(repr((rest, sweep.model, sweep.shared_prefix)).encode()).hexdigest()
    lengths = f"isl={workload.isl:g} osl={workload.osl:g}"
    return f"tp={tp_size} {offered(workload)} {lengths} {digest[:8]}"


def missing(sweep: Sweep, engine: Engine, store: Store) -> list[tuple[int, Workload]]:
    """Return unfinished cells, by TP."""
    done = {
        cell.key
        for cell in store.cells(sweep.study)
        if not cell.conditions.get("interrupted") and cell.conditions.get("completed")
    }
    return [
        (tp, workload)
        for tp in sweep.tp_sizes
        for workload in sweep.workloads
        if key_of(sweep, engine, tp, workload) not in done
    ]


def run_sweep(sweep: Sweep, engine: Engine, store: Store, say: Say) -> list[Measured]:
    """Measure missing cells; return the cells measured now.

    If interrupted, it stops after the current run, which is kept as interrupted. If a cell cannot
    be saved in `store`, it is saved in a file next to it and reported with `say`. Raises
    EngineError if an engine does not start.
    """
    todo = missing(sweep, engine, store)
    total = len(sweep.tp_sizes) * len(sweep.workloads)
    if todo and len(todo) < total:
        say(f"{total - len(todo)} of {total} cells are in {store.path} already")
    clock = _Clock(len(todo))
    measured: list[Measured] = []
    for tp_size in dict.fromkeys(tp for tp, _ in todo):
        workloads = [workload for tp, workload in todo if tp == tp_size]
        with serving(sweep, engine, tp_size, store.path, say) as served:
            for workload in workloads:
                cell = _measure_cell(sweep, engine, served, workload, clock, say)
                keep(store, cell, say)
                measured.append(cell)
                clock.done()
                if cell.conditions["interrupted"]:
                    return measured
    return measured


class Served(msgspec.Struct, frozen=True):
    """A ready engine and its recorded conditions."""

    tp_size: int
    target: Target
    source: PromptSource
    instance: Instance
    conditions: dict[str, Any]


@contextmanager
def serving(sweep: Sweep, engine: Engine, tp_size: int, place: Path, say: Say) -> Iterator[Served]:
    """Start the engine at `tp_size`, and stop it at the end.

    Leftovers of an earlier run are stopped first. The log is next to the store at `place`.
    """
    mark = f"sweep {place.resolve()}"
    left = running.clear(mark, place.parent.glob(f"{place.stem}.*-tp*.log"))
    if left:
        say(f"stopped {left} processes of an earlier run")
    seqs = max(workload.concurrency for workload in sweep.workloads)
    instance, devices = engine.instance_of(tp_size, seqs), engine.devices_of(tp_size)
    log = place.with_name(f"{place.stem}.{instance.engine}-tp{tp_size}.log")
    log.unlink(missing_ok=True)
    say(f"starting {instance.engine} with TP={tp_size} on {engine.kind} {_listed(devices)}")
    started = running.start(instance, engine.kind, devices, engine.port, log, mark)
    try:
        ready_s = running.wait_ready(started, engine.ready_timeout_s)
        target = parse_target(started.url, sweep.api, instance.served_name, exact=sweep.exact)
        source = choose_source(target)
        conditions = {
            "argv": list(started.argv),
            "versions": running.versions(instance.python or sys.executable),
            "hardware": describe(),
            "devices": list(devices),
            "threads_per_rank": max(1, len(devices) // tp_size) if engine.kind == "cpu" else None,
            "oversubscribed": engine.kind == "cpu" and tp_size > len(devices),
            "ready_s": round(ready_s, 1),
            "seed": sweep.seed,
            "prompts": source.name,
            "shared_prefix": sweep.shared_prefix,
        }
        yield Served(tp_size, target, source, instance, conditions)
    finally:
        running.stop(started)
        running.clear(mark)


def _measure_cell(
    sweep: Sweep, engine: Engine, served: Served, workload: Workload, clock: _Clock, say: Say
) -> Measured:
    effort, instance = sweep.effort(workload), served.instance
    deployment = Deployment(
        model=sweep.model,
        gpu=engine.gpu,
        layout=Layout(tp_size=served.tp_size),
        limits=instance.limits,
        dtypes=Dtypes(weight=engine.weight_dtype, kv=instance.kv_dtype),
        engine=instance.engine,
    )
    today = datetime.now(UTC).date().isoformat()
    subject = Subject(
        sweep.study,
        key_of(sweep, engine, served.tp_size, workload),
        deployment,
        workload,
        Source("measured", f"shardwise bench, {instance.engine} on {engine.gpu}", today),
        served.conditions,
    )
    load = (
        f"rate {workload.request_rate:g}/s"
        if workload.request_rate is not None
        else f"concurrency {workload.concurrency}"
    )
    say(f"TP={served.tp_size}, {load}{clock.left()}")
    return measure(
        served.target,
        subject,
        lambda repeat: arrange(
            served.source,
            workload,
            effort.requests,
            sweep.seed,
            repeat,
            sweep.shared_prefix,
        ),
        effort,
    )


class _Clock:
    """Estimates the time of remaining cells from the completed ones."""

    def __init__(self, cells: int) -> None:
        self._begun, self._done, self._cells = time.monotonic(), 0, cells

    def done(self) -> None:
        self._done += 1

    def left(self) -> str:
        if not self._done:
            return f" (cell 1 of {self._cells})"
        each = (time.monotonic() - self._begun) / self._done
        rest = each * (self._cells - self._done)
        return f" (cell {self._done + 1} of {self._cells}, about {rest:.0f} s left)"


def _listed(devices: Sequence[int]) -> str:
    return ",".join(map(str, devices))
