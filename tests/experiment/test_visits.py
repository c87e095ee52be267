"""Visits with a made-up engine and clock: their order, budget, interruption and resumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shardwise.bench.prompts import PromptSource
from shardwise.evidence.measured import Measured, Repeat
from shardwise.evidence.record import Evidence, Interval
from shardwise.evidence.store import Store, open_store
from shardwise.experiment import visits as visiting
from shardwise.experiment.design import RUNS, Cell, cells
from shardwise.experiment.split import Machine, Split
from shardwise.experiment.visits import STUDY, Job, Place, Visits
from shardwise.layout.deployment import Deployment, Layout
from shardwise.replica.command import Instance

MACHINE = Machine("cpu", (0, 1))
ONE, TWO = Split(1, 1, 1), Split(2, 1, 1)
SOURCE = PromptSource("token ids", ids=(100, 1000))
RUN_S = 4.0  #: of a cell; with its warm-up and pace 1.3 s more are planned


class World:
    """An engine that starts in `start_s`, runs that take `run_s`, and a log of what was done."""

    def __init__(self, start_s: float = 3.0, run_s: float = RUN_S) -> None:
        self.start_s, self.run_s, self.elapsed_s = start_s, run_s, 0.0
        self.log: list[str] = []
        self.said: list[str] = []
        self.interrupt_at = 0  #: the run that is interrupted; 0: none
        self.silent: set[str] = set()  #: keys of cells that never answer
        self.runs = 0
        self.prompts: list[tuple[int, ...]] = []

    @contextmanager
    def using(self, service: Split) -> Iterator[Any]:
        self.log.append(f"start {service.slug}")
        self.elapsed_s += self.start_s
        yield SimpleNamespace(target=None, source=SOURCE, conditions={})

    @contextmanager
    def doing(self, _what: str) -> Iterator[None]:
        yield

    def measure(self, _target: object, subject: Any, arrangement: Any, effort: Any, *,
                earlier: Sequence[Repeat] = ()) -> Measured:  # fmt: skip
        self.runs += 1
        for repeat in (-1, len(earlier)):  # a warm-up and a run
            self.prompts += map(tuple, arrangement(repeat).prompts)
        self.log.append(subject.key)
        self.elapsed_s += self.run_s + visiting.WARM_UP_S + visiting.PACE_S
        answers = subject.key not in self.silent
        metrics = {"e2e_latency_s": Interval(1.0, 0.9, 1.1, 8)} if answers else {}
        repeats = (*earlier, Repeat(0.0, 1.0, (0.0, 1.0), ()))
        assert len(repeats) == effort.max_repeats
        return Measured(
            STUDY,
            subject.key,
            Evidence(subject.deployment, subject.workload, metrics, subject.source),
            {
                "interrupted": self.runs == self.interrupt_at,
                "completed": 8 if answers else 0,
                "repeats": len(repeats),
            },
            repeats,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr("shardwise.experiment.serving.serving", lambda split, *_: split)
    monkeypatch.setattr(visiting, "measure", made.measure)
    monkeypatch.setattr(visiting, "pace_s", lambda: 0.03)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "measured.db") as opened:
        yield opened


def jobs(*splits: Split, batches: tuple[int, ...] = (1,)) -> list[Job]:
    closed = [c for c in cells(splits, batches, 16, 8) if c.workload.mode == "closed_loop"]
    return [Job(_key(c), c, Deployment("m", "cpu", Layout(c.split.tp_size)), RUN_S) for c in closed]


def _key(cell: Cell) -> str:
    return f"{cell.split.slug} c={cell.workload.concurrency}"


def visits(
    world: World, store: Store, wanted: Sequence[Job], budget_s: float = float("inf")
) -> Visits:
    instance = Instance(Deployment("m", "cpu", engine="builtin"))
    place = Place(MACHINE, instance, store.path.parent, store)
    clock: Any = world
    return Visits(wanted, place, budget_s, clock, world.said.append)


def runs_of(store: Store) -> dict[str, int]:
    return {cell.key: int(cell.conditions["repeats"]) for cell in store.cells(STUDY)}


def test_an_engine_that_starts_quickly_is_restarted_for_every_run(
    world: World, store: Store
) -> None:
    assert not visits(world, store, jobs(ONE, TWO)).make()
    one, two = ["start 1xtp1-1t", "1xtp1-1t c=1"], ["start 1xtp2-1t", "1xtp2-1t c=1"]
    # back and forth, so that the first split is not always the earlier one
    assert world.log == [*one, *two, *two, *one, *one, *two]
    assert runs_of(store) == {"1xtp1-1t c=1": RUNS, "1xtp2-1t c=1": RUNS}


def test_an_engine_that_starts_slowly_is_started_once_for_all_runs(
    world: World, store: Store
) -> None:
    world.start_s = 60.0
    # the built-in engine is taken to start in 6 s until it did not
    visits(world, store, jobs(ONE, TWO)).make()
    assert world.log.count("start 1xtp1-1t") == 1
    assert world.log.count("start 1xtp2-1t") == 1
    assert set(runs_of(store).values()) == {RUNS}


def test_a_second_run_of_the_command_makes_only_what_is_missing(world: World, store: Store) -> None:
    wanted = jobs(ONE, batches=(1, 2))
    world.interrupt_at = 4  # the second run of the second visit
    assert visits(world, store, wanted).make()
    assert sorted(runs_of(store).values()) == [1, 2]
    world.interrupt_at, world.log = 0, []
    assert not visits(world, store, wanted).make()
    assert runs_of(store) == {"1xtp1-1t c=1": RUNS, "1xtp1-1t c=2": RUNS}
    assert len([line for line in world.log if not line.startswith("start")]) == 2 * RUNS - 3
    world.log = []
    assert not visits(world, store, wanted).make()
    assert world.log == []
    assert "2 of 2 cells are already in" in world.said[-1]


def test_no_two_runs_have_a_prompt_in_common(world: World, store: Store) -> None:
    world.start_s = 60.0  # all runs of a cell in one start, whose prefix cache is kept
    visits(world, store, jobs(ONE, TWO, batches=(1, 2))).make()
    assert world.runs == 4 * RUNS
    assert len(set(world.prompts)) == len(world.prompts)


def test_an_interrupted_run_is_not_kept(world: World, store: Store) -> None:
    world.interrupt_at = 1
    assert visits(world, store, jobs(ONE)).make()
    assert runs_of(store) == {}


def test_a_cell_that_does_not_answer_is_not_tried_again_in_this_run(
    world: World, store: Store
) -> None:
    world.silent = {"1xtp1-1t c=1"}
    visits(world, store, jobs(ONE, batches=(1, 2))).make()
    assert world.log.count("1xtp1-1t c=1") == 1
    assert world.log.count("1xtp1-1t c=2") == RUNS
    world.log = []
    visits(world, store, jobs(ONE, batches=(1, 2))).make()  # but by the next
    assert world.log.count("1xtp1-1t c=1") == 1


def test_the_budget_is_kept_and_what_it_leaves_out_is_named(world: World, store: Store) -> None:
    # a start of 6 s and three runs of 5.3 s for each of two cells, and 15 s for the analysis
    found = visits(world, store, jobs(ONE, TWO), budget_s=52.0)
    assert not found.make()
    assert world.elapsed_s + visiting.ANALYSIS_S <= 52.0
    assert list(runs_of(store).values()).count(RUNS) == 1
    (left,) = found.dropped
    assert left in ("TP=1 on 1 core, closed loop, batch 1", "TP=2 on 2 cores, closed loop, batch 1")
    assert world.said[-1] == f"did not fit the budget: {left}"


def test_a_machine_that_is_slower_than_expected_makes_fewer_runs_within_the_budget(
    world: World, store: Store
) -> None:
    world.run_s = 3 * RUN_S
    found = visits(world, store, jobs(ONE, TWO), budget_s=100.0)
    found.make()
    # the run that showed the pace may itself end late, and no other begins after it
    assert world.elapsed_s <= 100.0
    assert found.dropped
    assert sum(runs_of(store).values()) < 2 * RUNS


def test_no_time_at_all_starts_no_engine(world: World, store: Store) -> None:
    found = visits(world, store, jobs(ONE), budget_s=10.0)
    assert not found.make()
    assert world.log == []
    assert found.dropped == ["TP=1 on 1 core, closed loop, batch 1"]
