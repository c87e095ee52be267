"""Run the experiment: measure the machine, predict, measure and store cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence
from shardwise.evidence.store import open_store
from shardwise.experiment import machine_files, serving
from shardwise.experiment.design import Cell, cells, key_of
from shardwise.experiment.forecast import Forecast, forecast, kept_forecasts
from shardwise.experiment.split import Machine, is_oversubscribed, splits
from shardwise.experiment.timeline import Timeline
from shardwise.experiment.visits import STUDY, Job, Place, Visits
from shardwise.layout.deployment import Deployment, Dtypes, Layout
from shardwise.perfmodel.profiles import Profile
from shardwise.replica.command import Instance

STORE: Final = "measured.db"
UNKNOWN_S: Final = 10.0  #: a run of a cell without a prediction

Say = Callable[[str], None]


class Wanted(msgspec.Struct, frozen=True):
    """The subject of an experiment. `model` is the name in predictions; `instance` starts it."""

    model: str
    machine: Machine
    instance: Instance
    weight_dtype: str
    tp_sizes: tuple[int, ...]
    concurrencies: tuple[int, ...]
    isl: int
    osl: int
    hardware_name: str
    profile: Profile
    budget_s: float = float("inf")

    def cells(self) -> dict[str, Cell]:
        """Return every cell by its key in the store."""
        ways = splits(self.machine, self.tp_sizes)
        seqs = max(self.concurrencies)
        found = cells(ways, self.concurrencies, self.isl, self.osl)
        # by model name, because a bundled model's path depends on the folder
        named = replace(self.instance.deployment, model=self.model)
        started = replace(self.instance, deployment=named).for_sequences(seqs)
        instance = (self.model, started, self.weight_dtype)
        return {key_of(cell, self.machine, instance): cell for cell in found}

    def deployment(self, cell: Cell) -> Deployment:
        """Return the deployment in the evidence of a cell."""
        s = self.instance
        return Deployment(
            model=self.model,
            gpu=machine_files.gpu_id(
                cell.split, cell.workload.concurrency, self.machine, self.hardware_name
            ),
            layout=Layout(tp_size=cell.split.tp_size, replicas=cell.split.replicas),
            limits=replace(s.limits, max_num_seqs=max(self.concurrencies)),
            dtypes=Dtypes(weight=self.weight_dtype, kv=s.kv_dtype),
            engine=s.engine,
        )


class Ran(msgspec.Struct, frozen=True):
    """Cells measured now or by an earlier run, their predictions, and the remaining cells."""

    measured: dict[str, Measured]
    forecasts: dict[str, Forecast]
    dropped: list[str]  #: description of what the budget did not allow
    interrupted: bool = False


def run(wanted: Wanted, folder: Path, clock: Timeline, say: Say) -> Ran:
    """Measure the missing cells of `folder`. Raises InputError or EngineError if it cannot
    continue; finished cells are kept, and the next run resumes."""
    serving.clear(folder)
    every = wanted.cells()
    with clock.doing("hardware"):
        measure_machine(wanted, list(every.values()), say)
    known = {k: c for k, c in every.items() if not is_oversubscribed(c.split, wanted.machine)}
    forecasts = kept_forecasts(folder, known, lambda cell: predicted(wanted, cell, wanted.profile))
    jobs = [
        Job(key, cell, wanted.deployment(cell), _run_s(cell, forecasts.get(key)))
        for key, cell in every.items()
    ]
    instance = wanted.instance.for_sequences(max(wanted.concurrencies))
    with open_store(folder / STORE) as store:
        visits = Visits(
            jobs, Place(wanted.machine, instance, folder, store), wanted.budget_s, clock, say
        )
        interrupted = visits.make()
        there = {cell.key: cell for cell in store.cells(STUDY) if cell.conditions.get("completed")}
    found = {key: there[key] for key in every if key in there}
    return Ran(found, forecasts, [] if interrupted else visits.dropped, interrupted)


def predicted(wanted: Wanted, cell: Cell, profile: Profile) -> Evidence:
    """Predict a cell with `profile`."""
    return forecast(cell, wanted.deployment(cell), profile)


def measure_machine(wanted: Wanted, every: Sequence[Cell], say: Say) -> None:
    """Write the missing hardware files that the predictions need."""
    if wanted.machine.gpu:
        return
    pairs = [
        (cell.split, cell.workload.concurrency)
        for cell in every
        if not is_oversubscribed(cell.split, wanted.machine)
    ]
    found = machine_files.shapes(pairs, wanted.machine, wanted.hardware_name)
    for name, (ranks, threads) in found.items():
        say(f"this machine as {name}")
        machine_files.detect(name, wanted.machine, ranks, threads)


def _run_s(cell: Cell, made: Forecast | None) -> float:
    """Return the expected seconds of one run of a cell."""
    if made is None:
        return UNKNOWN_S
    waves = cell.requests / cell.workload.concurrency
    return waves * made.evidence.metrics["e2e_latency_s"].value
