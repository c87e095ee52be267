"""Tables of a measured study from cells whose values are known."""

from __future__ import annotations

import math

from msgspec.structs import replace
from tests.reports.conftest import make

from shardwise.evidence.record import Interval
from shardwise.experiment.claims import Claim
from shardwise.experiment.correct import Compared, Corrected, Score
from shardwise.experiment.design import Cell
from shardwise.experiment.outcome import Outcome
from shardwise.experiment.split import Split
from shardwise.experiment.timeline import Spent
from shardwise.reports.experiment_tables import (
    claims_table,
    comparison_table,
    experiment_tables,
    scores_table,
    time_lines,
)
from shardwise.reports.table import Table

MEASURED = make(1, 16, 10.0, "measured", 40)
COMPARED = Compared(
    "a",
    Cell(Split(1, 1, 2), MEASURED.workload),
    MEASURED,
    usable=True,
    judged=True,
    made="2026-01-02",
    before=make(1, 16, 12.0, "predicted", 0),
    after=make(1, 16, 10.5, "predicted", 0),
    paces=(0.030, 0.031),
)


def outcome(
    *compared: Compared, spent: Spent | None = None, dropped: tuple[str, ...] = ()
) -> Outcome:
    scores = (Score("tpot_s", 12, 41.26, 5.44, 3, 9, 0.8),)
    claims = (
        Claim("latency falls", "TP=1 → TP=2", 16, Interval(0.5, 0.45, 0.6), "x", "holds", 0.02),
        Claim("tokens cost less", "2 x TP=1", 64, Interval(1.2, 0.9, 1.6), "x", "not resolved"),
    )
    return Outcome(
        "llama-51m", "builtin", "fp32", 1000, 101, "2 cores", "this-machine",
        Corrected(compared, scores, (), None), claims, dropped, spent or Spent(0.0, {}),
    )  # fmt: skip


def row(compared: Compared) -> dict[str, str]:
    table = comparison_table(outcome(compared))
    (cells,) = table.rows
    return {c.name: cell.text for c, cell in zip(table.columns, cells, strict=True)}


def test_errors_before_and_after_stand_beside_the_measured_value() -> None:
    shown = row(COMPARED)
    assert shown["split"] == "TP=1 on 2 cores"
    assert (shown["threads_per_rank"], shown["mode"]) == ("2", "closed loop")
    assert shown["e2e_latency_s"] == "10.0"
    # 12 s against 10 s: +20 %, beyond the interval of 12 / 1.1 to 13.2; 10.5 s: +5 %, within
    assert (shown["e2e_latency_s_before_pct"], shown["e2e_latency_s_after_pct"]) == ("+20!", "+5")
    # the throughput of a closed loop is the inverse: 10 / 12 - 1 and 10 / 10.5 - 1
    assert (shown["output_tok_s_before_pct"], shown["output_tok_s_after_pct"]) == ("-17!", "-5")
    assert shown["remarks"] == "*"


def test_a_cell_that_the_client_could_not_keep_up_with_shows_no_value() -> None:
    shown = row(replace(COMPARED, usable=False))
    assert (shown["e2e_latency_s"], shown["tpot_s_before_pct"]) == ("–", "–")
    assert shown["remarks"] == "client-bound"


def test_a_split_with_more_ranks_than_cores_has_no_prediction() -> None:
    shown = row(replace(COMPARED, before=None, after=None, judged=False))
    assert (shown["e2e_latency_s"], shown["e2e_latency_s_before_pct"]) == ("10.0", "–")
    assert shown["remarks"] == "more ranks than cores"


def test_a_machine_that_changed_its_speed_is_remarked_from_ten_percent() -> None:
    slower = replace(COMPARED, judged=False, paces=(0.030, 0.036))
    assert row(slower)["remarks"] == "pace drifted 20 %"
    assert row(replace(slower, paces=(0.030, 0.0329)))["remarks"] == ""
    assert row(replace(COMPARED, paces=(0.030, 0.036)))["remarks"] == "* pace drifted 20 %"


def test_a_gpu_has_no_threads() -> None:
    on_gpu = replace(COMPARED, cell=Cell(Split(2), MEASURED.workload))
    assert (row(on_gpu)["split"], row(on_gpu)["threads_per_rank"]) == ("TP=2", "–")


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in cells] for cells in table.rows]


def test_scores_count_the_cells_that_they_were_calibrated_on() -> None:
    own = replace(COMPARED, judged=False)
    table = scores_table(outcome(own, own, replace(own, usable=False), COMPARED))
    assert table.title.endswith("after calibration on 2 others")
    assert texts(table) == [["TPOT", "12", "41.3", "5.4", "3 of 12", "9 of 12", "80"]]


def test_a_claim_has_its_interval_its_verdict_and_the_drift_if_it_was_measured() -> None:
    table = claims_table(outcome())
    assert texts(table) == [
        ["latency falls", "TP=1 → TP=2", "16", "0.50", "x", "2", "holds"],
        ["tokens cost less", "2 x TP=1", "64", "1.20", "x", "–", "not resolved"],
    ]
    assert [cells[3].detail for cells in table.rows] == ["(0.45…0.60)", "(0.90…1.60)"]
    assert [cells[-1].tone for cells in table.rows] == ["better", "unclear"]
    assert math.isnan(outcome().claims[1].drift)


def test_tables_without_rows_are_left_out_and_the_comparison_comes_last() -> None:
    assert [t.name for t in experiment_tables(outcome(COMPARED))] == [
        "claims",
        "errors",
        "comparison",
    ]
    bare = replace(outcome(), claims=(), corrected=Corrected((), (), (), None))
    assert experiment_tables(bare) == []


def test_the_time_is_said_with_what_did_not_fit() -> None:
    assert time_lines(outcome()) == ["every cell was already measured"]
    spent = Spent(100.0, {"starting": 20.0, "measuring": 75.0})
    assert time_lines(outcome(spent=spent, dropped=("TP=2, batch 4",))) == [
        "100 s: starting 20 s, measuring 75 s, idle 5.0 %",
        "did not fit the budget: TP=2, batch 4",
    ]
