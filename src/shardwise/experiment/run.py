"""The loop itself: machine measured, cells predicted, engines started, cells measured and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shardwise.bench.cell import Subject, arrange, measure
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Deployment, Evidence, Source
from shardwise.evidence.store import Store, open_store
from shardwise.experiment import machine_files, serving
from shardwise.experiment.design import Cell, cells, key_of, within
from shardwise.experiment.forecast import Forecast, forecast, kept_forecasts
from shardwise.experiment.split import Machine, is_oversubscribed, splits
from shardwise.experiment.timeline import Timeline
from shardwise.perfmodel.profiles import Profile
from shardwise.replica.command import Settings

STUDY: Final = "experiment"
STORE: Final = "measured.db"
#: Guesses of an engine's start until one was seen, and of what follows the last cell.
START_S: Final = {"builtin": 8.0, "vllm": 60.0, "sglang": 60.0}
ANALYSIS_S: Final = 15.0
#: A cell without a prediction, and what warming up adds to the runs.
UNKNOWN_S, OVERHEAD_S = 10.0, 1.0
SEED: Final = 0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What an experiment is about. `model` is as the predictions name it; `settings` starts it."""

    model: str
    machine: Machine
    settings: Settings
    weight_dtype: str
    tp_sizes: tuple[int, ...]
    concurrencies: tuple[int, ...]
    isl: int
    osl: int
    hardware_name: str
    profile: Profile
    budget_s: float = float("inf")

    def cells(self) -> dict[str, Cell]:
        """Every cell by its key in the store."""
        ways = splits(self.machine, self.tp_sizes)
        seqs = max(self.concurrencies)
        found = cells(ways, self.concurrencies, self.isl, self.osl)
        # by the model's name: a bundled one lies in the folder, which may move
        started = replace(self.settings, model=self.model, max_num_seqs=seqs)
        settings = (self.model, started, self.weight_dtype)
        return {key_of(cell, self.machine, settings): cell for cell in found}

    def deployment(self, cell: Cell) -> Deployment:
        s = self.settings
        return Deployment(
            model=self.model,
            gpu=machine_files.gpu_id(
                cell.split, cell.workload.concurrency, self.machine, self.hardware_name
            ),
            tp_size=cell.split.tp_size,
            replicas=cell.split.replicas,
            weight_dtype=self.weight_dtype,
            kv_dtype=s.kv_dtype,
            engine=s.engine,
            max_num_seqs=max(self.concurrencies),
            max_num_batched_tokens=s.max_num_batched_tokens,
            gpu_memory_utilization=s.gpu_memory_utilization,
            max_model_len=s.max_model_len,
        )


@dataclass(frozen=True)
class Ran:
    """Cells measured, now or by an earlier run, what was predicted of them, and what was left."""

    measured: dict[str, Measured]
    forecasts: dict[str, Forecast]
    dropped: list[str]  #: labels of the cells that the budget did not allow
    interrupted: bool = False


def run(wanted: Wanted, folder: Path, clock: Timeline, say: Say) -> Ran:
    """Measure what is missing in `folder`. InputError or EngineError where it cannot go on; what
    was measured is kept, and the next run goes on from there."""
    serving.clear(folder)
    every = wanted.cells()
    with clock.doing("hardware"):
        measure_machine(wanted, list(every.values()), say)
    known = {k: c for k, c in every.items() if not is_oversubscribed(c.split, wanted.machine)}
    forecasts = kept_forecasts(folder, known, lambda cell: predicted(wanted, cell, wanted.profile))
    with open_store(folder / STORE) as store:
        todo = {key: cell for key, cell in every.items() if key not in done(store)}
        if len(todo) < len(every):
            say(f"{len(every) - len(todo)} of {len(every)} cells are in {store.path} already")
        loop = _Loop(wanted, folder, store, clock, say, _costs(every, forecasts))
        interrupted = loop.run(todo)
        there = done(store)
    found = {key: there[key] for key in every if key in there}
    return Ran(found, forecasts, [cell.label for cell in loop.dropped], interrupted)


def predicted(wanted: Wanted, cell: Cell, profile: Profile) -> Evidence:
    """What `profile` says of a cell."""
    return forecast(cell, wanted.deployment(cell), profile)


def measure_machine(wanted: Wanted, every: Sequence[Cell], say: Say) -> None:
    """Write the hardware files that the predictions need and that are not there."""
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


def done(store: Store) -> dict[str, Measured]:
    """The cells in `store` that no run has to measure again, by key."""
    return {
        cell.key: cell
        for cell in store.cells(STUDY)
        if not cell.conditions.get("interrupted") and cell.conditions.get("completed")
    }


def _costs(every: Mapping[str, Cell], forecasts: Mapping[str, Forecast]) -> dict[Cell, float]:
    """Seconds that each cell is expected to take."""
    return {
        cell: _seconds(cell, forecasts[key].evidence) if key in forecasts else UNKNOWN_S
        for key, cell in every.items()
    }


def _seconds(cell: Cell, evidence: Evidence) -> float:
    waves = cell.effort.requests / cell.workload.concurrency
    return OVERHEAD_S + cell.effort.min_repeats * waves * evidence.metrics["e2e_latency_s"].value


class _Loop:
    """Split by split, cell by cell, and what the clock says in between."""

    def __init__(
        self,
        wanted: Wanted,
        folder: Path,
        store: Store,
        clock: Timeline,
        say: Say,
        costs: Mapping[Cell, float],
    ) -> None:
        self.wanted, self.folder, self.store = wanted, folder, store
        self.clock, self.say, self.costs = clock, say, costs
        self.dropped: list[Cell] = []
        self._starts: list[float] = []
        self._expected_s = self._took_s = 0.0

    def run(self, todo: Mapping[str, Cell]) -> bool:
        """Measure `todo`, as far as the budget goes; whether it was interrupted."""
        left = dict(todo)
        for split in dict.fromkeys(cell.split for cell in todo.values()):
            left = self._affordable(left)
            if not any(cell.split == split for cell in left.values()):
                continue
            begun = self.clock.elapsed_s
            service = serving.serving(
                split, self.wanted.machine, self._settings(), self.folder, self.say
            )
            with self.clock.using(service) as served:
                self._starts.append(self.clock.elapsed_s - begun)
                while here := [k for k, cell in left.items() if cell.split == split]:
                    if self._measure(here[0], left.pop(here[0]), served, left):
                        return True
                    left = self._affordable(left, started=True)
        return False

    def _settings(self) -> Settings:
        return replace(self.wanted.settings, max_num_seqs=max(self.wanted.concurrencies))

    def _start_s(self) -> float:
        guess = START_S[self.wanted.settings.engine]
        return max(self._starts) if self._starts else guess

    def _cell_s(self, cell: Cell) -> float:
        """As expected, at the pace of the cells so far."""
        pace = self._took_s / self._expected_s if self._expected_s else 1.0
        return self.costs[cell] * pace

    def _affordable(self, left: dict[str, Cell], started: bool = False) -> dict[str, Cell]:
        seconds = self.wanted.budget_s - self.clock.elapsed_s - ANALYSIS_S
        seconds += self._start_s() if started else 0.0
        kept, dropped = within(list(left.values()), seconds, self._cell_s, self._start_s())
        for cell in dropped:
            self.say(f"no time for: {cell.label} (about {self._cell_s(cell):.0f} s)")
        self.dropped += dropped
        return {key: cell for key, cell in left.items() if cell in kept}

    def _measure(
        self, key: str, cell: Cell, served: serving.Served, left: Mapping[str, Cell]
    ) -> bool:
        splits_left = len({c.split for c in left.values()} - {cell.split})
        rest = sum(map(self._cell_s, left.values())) + splits_left * self._start_s()
        self.say(f"{cell.label} (about {self._cell_s(cell) + rest:.0f} s left)")
        begun = self.clock.elapsed_s
        with self.clock.doing("measuring"):
            found = _measured(self.wanted, key, cell, served)
        self.store.put(found)
        self._took_s += self.clock.elapsed_s - begun
        self._expected_s += self.costs[cell]
        return bool(found.conditions["interrupted"])


def _measured(wanted: Wanted, key: str, cell: Cell, served: serving.Served) -> Measured:
    name = f"shardwise study --measure, {wanted.settings.engine}"
    subject = Subject(
        STUDY,
        key,
        wanted.deployment(cell),
        cell.workload,
        Source("measured", name, datetime.now(UTC).date().isoformat()),
        {**served.conditions, "seed": SEED},
    )
    return measure(
        served.target,
        subject,
        lambda repeat: arrange(
            served.source, cell.workload, cell.effort.requests, SEED * 1000 + repeat
        ),
        cell.effort,
    )
