"""Accuracy as tables."""

from __future__ import annotations

from shardwise.perfmodel.profiles import Error
from shardwise.reports.accuracy_tables import held_out_table


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
