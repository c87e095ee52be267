"""Visit the splits of a machine in turn: start an engine, run its cells, go to the next split.

The speed of a shared machine changes within minutes. If an engine starts quickly, a visit makes
one run of each cell, so that the runs of a cell are minutes and a start apart, and its interval
includes that variation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from shardwise.bench.cell import Subject, arrange, measure
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Source
from shardwise.evidence.store import Store
from shardwise.experiment import serving
from shardwise.experiment.design import RUNS, Cell, Costs, within
from shardwise.experiment.pace import pace_s, with_pace
from shardwise.experiment.split import Machine, Split
from shardwise.experiment.timeline import Timeline
from shardwise.layout.deployment import Deployment
from shardwise.replica.command import Instance

STUDY: Final = "experiment"
#: Assumed seconds of an engine's start and stop until measured, and after the last cell.
START_S: Final = {"builtin": 6.0, "vllm": 60.0, "sglang": 60.0}
ANALYSIS_S: Final = 15.0
WARM_UP_S: Final = 1.0  #: before each run
PACE_S: Final = 0.3  #: to measure the machine's speed before and after it
QUICK_START_S: Final = 10.0  #: an engine that starts within this time is restarted for every run
SEED: Final = 0

Say = Callable[[str], None]


class Job(msgspec.Struct, frozen=True):
    """A cell to measure, and the expected seconds of one run."""

    key: str
    cell: Cell
    deployment: Deployment
    run_s: float


class Place(msgspec.Struct, frozen=True):
    """Where cells are measured and stored."""

    machine: Machine
    instance: Instance  #: settings of the engine's start
    folder: Path  #: for logs
    store: Store


def _runs_in(store: Store) -> dict[str, int]:
    """Return the runs of the cells in `store`, by key. A cell without an answer is measured
    again."""
    return {
        cell.key: int(cell.conditions["repeats"]) if cell.conditions.get("completed") else 0
        for cell in store.cells(STUDY)
    }


class Visits:
    """The missing runs of `jobs`, as far as the budget allows, split by split and back again."""

    def __init__(
        self, jobs: Sequence[Job], place: Place, budget_s: float, clock: Timeline, say: Say
    ) -> None:
        self.place, self.budget_s, self.clock, self.say = place, budget_s, clock, say
        before = _runs_in(place.store)
        todo = [job for job in jobs if before.get(job.key, 0) < RUNS]
        if len(todo) < len(jobs):
            say(f"{len(jobs) - len(todo)} of {len(jobs)} cells are already in {place.store.path}")
        self.jobs = {job.cell: job for job in todo}
        self.left = {job.cell: RUNS - before.get(job.key, 0) for job in todo}
        self._starts: list[float] = []
        self._expected_s = self._took_s = 0.0

    def make(self) -> bool:
        """Visit until nothing is left or affordable; return whether it was interrupted."""
        order = list(dict.fromkeys(cell.split for cell in self.left))
        while any(self._affordable(split) for split in order):
            for split in order:
                if self._affordable(split) and self._visit(split):
                    return True
            order.reverse()  # so that the first split is not always the earlier one
        for words in self.dropped:
            self.say(f"did not fit the budget: {words}")
        return False

    @property
    def dropped(self) -> list[str]:
        """Cells with fewer runs than planned."""
        made = {cell: RUNS - left for cell, left in self.left.items()}
        return [f"{c.label}, {n} of {RUNS} runs" if n else c.label for c, n in made.items()]

    def _visit(self, split: Split) -> bool:
        """Start the engine and make the planned runs of each cell."""
        begun, place = self.clock.elapsed_s, self.place
        service = serving.serving(split, place.machine, place.instance, place.folder, self.say)
        with self.clock.using(service) as served:
            self._starts.append(self.clock.elapsed_s - begun)
            for _ in range(self._costs().runs_a_start):
                for cell in self._affordable(split, started=True):
                    # the duration of earlier runs may have changed what is affordable
                    if cell not in self._affordable(split, started=True):
                        continue
                    if self._run(self.jobs[cell], served):
                        return True
        return False

    def _affordable(self, split: Split, started: bool = False) -> list[Cell]:
        """Return the affordable remaining cells of `split`. A running engine costs no further
        start."""
        costs = self._costs()
        seconds = self.budget_s - self.clock.elapsed_s - ANALYSIS_S
        seconds += costs.start_s if started and any(c.split == split for c in self.left) else 0.0
        kept, _ = within(self.left, seconds, costs)
        return [cell for cell in kept if cell.split == split]

    def _costs(self) -> Costs:
        """Return the expected costs, at the speed of the runs so far."""
        start_s = max(self._starts) if self._starts else START_S[self.place.instance.engine]
        pace = self._took_s / self._expected_s if self._expected_s else 1.0
        return Costs(
            lambda cell: WARM_UP_S + PACE_S + self.jobs[cell].run_s * pace,
            start_s,
            1 if start_s <= QUICK_START_S else RUNS,
        )

    def _run(self, job: Job, served: serving.Served) -> bool:
        """Make and store one more run of a cell; return True if it was interrupted."""
        made = RUNS - self.left[job.cell]
        rest_s = min(self._costs().total_s(self.left), self.budget_s - self.clock.elapsed_s)
        self.say(f"{job.cell.label}, run {made + 1} of {RUNS} (about {rest_s:.0f} s left)")
        begun = self.clock.elapsed_s
        with self.clock.doing("measuring"):
            before_s = pace_s()
            found = with_pace(self._measured(job, made, served), before_s, pace_s())
        if found.conditions["interrupted"]:
            return True
        self.place.store.put(found)
        self._took_s += max(0.0, self.clock.elapsed_s - begun - WARM_UP_S - PACE_S)
        self._expected_s += job.run_s
        self.left[job.cell] -= 1
        if not self.left[job.cell] or not found.conditions["completed"]:
            del self.left[job.cell]  # it would not answer in another run either
        return False

    def _measured(self, job: Job, made: int, served: serving.Served) -> Measured:
        subject = Subject(
            STUDY,
            job.key,
            job.deployment,
            job.cell.workload,
            Source(
                "measured",
                f"shardwise study --measure, {self.place.instance.engine}",
                datetime.now(UTC).date().isoformat(),
            ),
            {**served.conditions, "seed": SEED},
        )
        return measure(
            served.target,
            subject,
            lambda repeat: arrange(
                served.source, job.cell.workload, job.cell.requests, SEED, repeat
            ),
            job.cell.effort(made + 1),
            earlier=self.place.store.repeats(STUDY, job.key) if made else (),
        )
