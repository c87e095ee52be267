"""Accuracy as tables."""

from __future__ import annotations

from shardwise.perfmodel.profiles import Error
from shardwise.perfmodel.validation import Choice, Score
from shardwise.reports.accuracy_tables import (
    calibration_table,
    choice_table,
    held_out_table,
    score_table,
)


def test_errors_left_out_are_also_given_over_all_rows_that_had_one() -> None:
    table = held_out_table(
        [
            Error("b200", "vllm", "ttft_s", 30, 10.0, 24.0),
            Error("h200", "vllm", "ttft_s", 90, 6.0, 8.0),
            Error("mi300x", "vllm", "ttft_s", 60, 5.0, None),  # one TP: nothing to leave out
        ]
    )
    # (30 x 10 + 90 x 6) / 120 = 7.0; (30 x 24 + 90 x 8) / 120 = 12.0
    texts = [cell.text for cell in table.sections[-1][0]]
    assert texts == ["all of these", "TTFT", "120", "7.0", "12.0", "–"]


def test_one_pair_has_no_mean_over_pairs() -> None:
    table = held_out_table([Error("h200", "vllm", "ttft_s", 90, 6.0, 8.0)])
    assert len(table.sections) == 1


def test_a_calibration_is_judged_by_the_digit_that_is_shown() -> None:
    table = calibration_table(
        {"ttft_s": 20.0, "tpot_s": 5.0, "e2e_latency_s": 7.04},
        {"ttft_s": 12.5, "tpot_s": 5.1, "e2e_latency_s": 7.01},
    )
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["TTFT", "20.0", "12.5", "✓ better"],
        ["TPOT", "5.0", "5.1", "✗ worse"],
        ["E2E latency", "7.0", "7.0", "same"],
    ]
    assert [row[2].tone for row in table.rows] == ["better", "worse", "plain"]


def test_the_best_layout_s_share_and_regret() -> None:
    (row,) = choice_table([Choice("output throughput per GPU", 40, 30, 1.25)]).rows
    assert [cell.text for cell in row[1:]] == ["40", "30", "75.0", "1.2"]


def test_scores_of_a_group_stand_together_with_the_sign_of_their_bias() -> None:
    table = score_table(
        [
            Score("h200", "ttft_s", 12, 20.0, -3.04, 75.0),
            Score("b200", "ttft_s", 5, 10.0, 2.0, 80.0),
            Score("h200", "tpot_s", 12, 4.0, 0.0, 90.0),
        ],
        "GPU",
    )
    assert table.name == "errors_by_GPU"
    assert [[row[0].text for row in section] for section in table.sections] == [
        ["h200", "h200"],
        ["b200"],
    ]
    assert [row[4].text for row in table.rows] == ["-3.0", "+0.0", "+2.0"]
