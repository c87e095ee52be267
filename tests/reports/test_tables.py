from __future__ import annotations

import pytest
from msgspec.structs import replace

from shardwise.analysis.breakeven import breakeven_tp, latency_keeping_batches
from shardwise.analysis.grid import Grid, index
from shardwise.analysis.published import load_published
from shardwise.analysis.transitions import compare, transitions
from shardwise.errors import InputError
from shardwise.reports.table import Table
from shardwise.reports.table_text import render
from shardwise.reports.tables import (
    breakeven_table,
    comparison_table,
    kept_latency_table,
    study_table,
    transitions_table,
)


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_study_grid_shows_every_cell_in_the_unit_of_its_column(grid: Grid) -> None:
    table = study_table(grid)
    assert [c.heading.replace("\n", " ") for c in table.columns] == [
        "TP",
        "batch",
        "E2E latency s",
        "TTFT s",
        "TPOT ms",
        "output throughput tok/s",
        "total throughput tok/s",
        "comm. share %",
    ]
    # TP=1 at 128: TTFT 40 / 5 = 8 s, TPOT 40 * 0.8 / 100 = 320 ms, 128 * 101 / 40 = 323.2 tok/s
    assert texts(table)[1] == ["1", "128", "40.0", "8.00", "320", "323", "3,523", "20.0"]
    assert [len(section) for section in table.sections] == [2, 2, 2]  # one a TP
    assert "predicted: hand-made, 2026-01-02" in table.notes


def test_a_metric_that_no_result_has_gets_no_column(grid: Grid) -> None:
    bare = index(
        replace(item, metrics={"tpot_s": item.metrics["tpot_s"]}, breakdown={})
        for item in grid.values()
    )
    table = study_table(bare)
    assert [c.title for c in table.columns] == ["TP", "batch", "TPOT", "comm. share"]
    assert {row[-1] for row in texts(table)} == {"–"}


def test_transitions_go_up_then_down_with_marks(grid: Grid) -> None:
    table = transitions_table(transitions(grid, rho=1.0))
    assert [c.title for c in table.columns[2:]] == ["TP1→2", "TP2→8", "TP8→2", "TP2→1"]
    # 6.5 / 10, 4 / 6.5, 6.5 / 4, 10 / 6.5
    assert texts(table)[0][2:] == ["-35.0 ▼✓", "-38.5 ▼✓", "+62.5 ▲✗", "+53.8 ▲✗"]
    assert [cell.tone for cell in table.rows[0][2:]] == ["better", "better", "worse", "worse"]


def test_a_step_whose_interval_spans_zero_is_marked_unclear(grid: Grid) -> None:
    item = grid[8, 16]
    near = replace(item, deployment=item.deployment.with_layout(tp_size=4))
    cell = transitions_table(transitions(index([near, item]))).rows[0][2]
    assert (cell.text, cell.tone) == ("+0.0  ?", "unclear")


def test_predicted_and_published_stand_apart_and_the_error_is_told(grid: Grid) -> None:
    study = load_published()
    pairs = compare(transitions(grid), study.steps)
    table = comparison_table(pairs)
    assert [c.title for c in table.columns[3:]] == ["predicted", "published", "apart"]
    # -35 against -33.5 at batch 16; 24 / 40 - 1 = -40 against -32 at batch 128: mean 4.75
    first = texts(table)[0]
    assert first == ["E2E latency", "16", "TP1→2", "-35.0 ▼✓", "-33.5", "-1.5"]
    assert {row[4].tone for row in table.rows} == {"reference"}
    assert "reference" not in {row[3].tone for row in table.rows}
    assert "mean absolute error, E2E latency, steps up: 4.8 points (n=2)" in table.notes
    assert any("AMD ROCm blog" in note for note in table.notes)


def test_a_published_table_claims_no_interval() -> None:
    table = transitions_table(load_published().steps)
    assert {cell.detail for row in table.rows for cell in row} == {""}
    assert "80 %" not in render(table)


def test_kept_batches_say_none_and_at_least(grid: Grid) -> None:
    rows = texts(kept_latency_table(latency_keeping_batches(grid)))
    # TP=2 takes 6.5 s at 16: above TP=8's 4 s; TP=8's 12 s at 128 lies between 6.5 and 24
    assert rows[0] == ["TP8→2", "16", "4.00", "none"]
    # 16 * 8 ** ((12 - 6.5) / 17.5) = 30.8
    assert rows[1] == ["TP8→2", "128", "12.0", "30"]
    relaxed = replace(latency_keeping_batches(grid)[1], batch=128.0, bound="at least")
    assert texts(kept_latency_table([relaxed]))[0][3] == "≥ 128"


def test_breakeven_tells_what_the_next_step_buys(grid: Grid) -> None:
    rows = texts(breakeven_table(breakeven_tp(transitions(grid), 36)))
    # batch 16: 35 % is too little at once; batch 128: 40 % then 50 %
    assert rows == [["16", "1", "+35.0"], ["128", "8", "–"]]


def test_nothing_to_show_is_one_clear_line() -> None:
    for make in (comparison_table, kept_latency_table, breakeven_table, transitions_table):
        with pytest.raises(InputError, match="to show; at least one is needed"):
            make([])
