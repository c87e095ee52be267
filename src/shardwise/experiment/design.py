"""The cells of an experiment, and their priority if time is short."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from shardwise.bench.cell import Effort
from shardwise.evidence.export import STEADY_WAVES
from shardwise.experiment.split import Machine, Split
from shardwise.workload.workload import Mode, Workload

RUNS: Final = 3  #: runs per cell; their variation gives its interval
#: Requests per run of a closed loop: four waves, two or three of them in the steady window.
WAVES, LEAST_REQUESTS = 4, 8
STALL_TIMEOUT_S: Final = 120.0
#: Lengths of a closed loop, uniform from half to one and a half times the mean. Equal lengths end
#: in the same step and restart together, which repeats a static batch.
SPREAD: Final = 0.5
MODES: Final[tuple[tuple[Mode, float], ...]] = (("closed_loop", SPREAD), ("static_batch", 0.0))


class Cell(msgspec.Struct, frozen=True):
    """One load on one split of the machine."""

    split: Split
    workload: Workload

    @property
    def label(self) -> str:
        """Split, mode and batch, for a table."""
        mode = self.workload.mode.replace("_", " ")
        return f"{self.split.label}, {mode}, batch {self.workload.concurrency}"

    @property
    def requests(self) -> int:
        """Effort of one run."""
        slots = self.workload.concurrency
        if self.workload.mode == "closed_loop":
            return max(LEAST_REQUESTS, WAVES * slots)
        return slots

    def effort(self, runs: int) -> Effort:
        """Return the effort for `runs` runs, including earlier ones."""
        return Effort(self.requests, runs, runs, stall_timeout_s=STALL_TIMEOUT_S)

    @property
    def per_replica(self) -> Workload:
        """Return the workload of the fullest replica; a steady window has no first burst."""
        w = self.workload
        busy = min(self.split.replicas, w.concurrency)
        slots = math.ceil(w.concurrency / busy)
        requests = STEADY_WAVES * slots if w.mode == "closed_loop" else slots
        return Workload(w.isl, w.osl, slots, w.mode, w.length_spread, requests=requests)


def cells(splits: Sequence[Split], concurrencies: Sequence[int], isl: int, osl: int) -> list[Cell]:
    """Return every split under every batch: a closed loop, and for one replica also a static
    batch."""
    return [
        Cell(split, Workload(isl, osl, slots, mode, spread))
        for split in splits
        for mode, spread in MODES
        if mode == "closed_loop" or split.replicas == 1
        for slots in concurrencies
    ]


def longest(isl: int, osl: int) -> int:
    """Return the tokens of the longest request, rounded up to a multiple of 256 with room for the
    server's additional tokens."""
    return -(-(math.ceil((isl + osl) * (1 + SPREAD)) + 16) // 256) * 256


def key_of(cell: Cell, machine: Machine, settings: object) -> str:
    """Return the key of a cell in the store: its description, and a digest of everything else that
    affects its values."""
    w = cell.workload
    rest = repr((machine, settings, cell.effort(RUNS)))
    digest = hashlib.sha256(rest.encode()).hexdigest()[:8]
    return f"{cell.split.slug} {w.mode} c={w.concurrency} isl={w.isl:g} osl={w.osl:g} {digest}"


def worth(cell: Cell, ends: Collection[int]) -> int:
    """Return the information value of a cell: the ends of the batch range bound the rest, and the
    closed loop answers more questions than the static batch."""
    closed = cell.workload.mode == "closed_loop"
    return 2 * closed + (cell.workload.concurrency in ends)


class Costs(msgspec.Struct, frozen=True):
    """Expected seconds of one run of a cell and of an engine start, and the runs of each cell per
    start."""

    run_s: Callable[[Cell], float]
    start_s: float
    runs_a_start: int = RUNS

    def total_s(self, left: Mapping[Cell, int]) -> float:
        """Return the total of all remaining runs, including engine starts."""
        most: dict[Split, int] = {}
        for cell, runs in left.items():
            most[cell.split] = max(most.get(cell.split, 0), runs)
        starts = sum(math.ceil(runs / self.runs_a_start) for runs in most.values())
        return starts * self.start_s + sum(runs * self.run_s(c) for c, runs in left.items())


def within(
    left: Mapping[Cell, int], seconds: float, costs: Costs
) -> tuple[dict[Cell, int], list[Cell]]:
    """Return the cells whose remaining runs fit in `seconds`, and the dropped ones: first those
    not started, then the least informative, then the longest."""
    kept, dropped = dict(left), []
    batches = [cell.workload.concurrency for cell in left]
    ends = {min(batches), max(batches)} if batches else set()
    while kept and costs.total_s(kept) > seconds:
        least = min(
            kept, key=lambda cell: (left[cell] < RUNS, worth(cell, ends), -costs.run_s(cell))
        )
        del kept[least]
        dropped.append(least)
    return kept, dropped
