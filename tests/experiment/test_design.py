"""Cells of an experiment, and what is given up where the time is short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardwise.experiment.correct import is_judged
from shardwise.experiment.design import RUNS, Cell, Costs, cells, key_of, longest, within
from shardwise.experiment.split import Machine, Split, splits

MACHINE = Machine("cpu", (0, 1))
CELLS = cells(splits(MACHINE, (1, 2)), (1, 4, 16), 128, 32)


def test_replicas_have_closed_loops_only_and_one_replica_both_modes() -> None:
    # 3 splits of one replica x 3 batches x 2 modes, and 3 closed loops of two replicas
    assert len(CELLS) == 21
    assert len({key_of(cell, MACHINE, "") for cell in CELLS}) == 21
    several = [cell for cell in CELLS if cell.split.replicas > 1]
    assert {cell.workload.mode for cell in several} == {"closed_loop"}


def test_what_replicas_see_is_their_share_of_the_load() -> None:
    sixteen = next(c for c in CELLS if c.split.replicas == 2 and c.workload.concurrency == 16)
    alone = next(c for c in CELLS if c.split.replicas == 2 and c.workload.concurrency == 1)
    assert sixteen.per_replica.concurrency == 8
    assert alone.per_replica.concurrency == 1


def test_the_longest_request_fits_the_context() -> None:
    # (128 + 32) x 1.5 + 16 = 256
    assert longest(128, 32) == 256
    assert longest(129, 32) == 512


def test_the_middle_of_static_batches_goes_first_and_the_ends_of_closed_loops_last() -> None:
    # 4 starts of 5 s and 21 runs of 10 s make 230 s
    once = dict.fromkeys(CELLS, 1)
    costs = Costs(lambda _: 10.0, 5.0)
    kept, dropped = within(once, 229.0, costs)
    assert [(c.workload.mode, c.workload.concurrency) for c in dropped] == [("static_batch", 4)]
    kept, dropped = within(once, 100.0, costs)
    assert {(c.workload.mode, c.workload.concurrency) for c in kept} == {
        ("closed_loop", 1),
        ("closed_loop", 16),
    }
    assert len(kept) == 8  # 8 x 10 + 4 x 5 = 100
    assert len(kept) + len(dropped) == len(CELLS)


@given(st.floats(0.0, 400.0))
def test_what_is_kept_fits_the_budget(seconds: float) -> None:
    def cell_s(cell: Cell) -> float:
        return 1.0 + cell.workload.concurrency

    kept, dropped = within(dict.fromkeys(CELLS, 1), seconds, Costs(cell_s, 5.0))
    assert sum(map(cell_s, kept)) + 5.0 * len({c.split for c in kept}) <= seconds or not kept
    assert sorted(map(id, [*kept, *dropped])) == sorted(map(id, CELLS))


def test_what_was_begun_is_ended_before_another_is_begun() -> None:
    begun = next(c for c in CELLS if c.workload.mode == "static_batch")
    left = dict.fromkeys(CELLS, RUNS) | {begun: 1}
    kept, _ = within(left, 40.0, Costs(lambda _: 10.0, 5.0))
    assert begun in kept


def test_an_engine_is_started_as_often_as_its_split_has_visits() -> None:
    one, other = CELLS[0], CELLS[-1]
    assert one.split != other.split
    # 3 + 2 runs of 10 s; 3 + 2 starts of 5 s with a run each, 1 + 1 with all runs in one
    left = {one: 3, other: 2}
    assert Costs(lambda _: 10.0, 5.0, runs_a_start=1).total_s(left) == 75.0
    assert Costs(lambda _: 10.0, 5.0, runs_a_start=3).total_s(left) == 60.0


def test_half_of_the_cells_are_judged_whatever_they_measure() -> None:
    judged = [cell for cell in CELLS if is_judged(cell, CELLS)]
    assert len(judged) in (10, 11)
    for split in {cell.split for cell in CELLS}:
        own = [is_judged(cell, CELLS) for cell in CELLS if cell.split == split]
        assert any(own)
        assert not all(own)


def test_a_cell_is_another_where_its_settings_are() -> None:
    cell = CELLS[0]
    assert key_of(cell, MACHINE, "a") != key_of(cell, MACHINE, "b")
    assert Split(1, 1, 2).slug != Split(1, 1, 1).slug
