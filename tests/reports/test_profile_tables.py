"""The time of a step by part, product and message, from a profile whose numbers are round."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shardwise.reports.profile_tables import PARTS, profile_tables
from shardwise.reports.table import Table

#: 2 TFLOP/s and 100 GB/s are the measured peaks
LIMIT = SimpleNamespace(matrix_flops=2e12, copy_bytes_per_s=100e9)


def rank(number: int, *messages: SimpleNamespace) -> SimpleNamespace:
    product = SimpleNamespace(
        name="gate_up_proj", rows=128, inputs=4096, outputs=11008, calls=32, seconds=250e-6,
        flops_per_s=1.5e12, bytes_per_s=40e9,
    )  # fmt: skip
    seconds = {part: (i + 1) * 1e-3 for i, part in enumerate(PARTS)}
    return SimpleNamespace(
        tp_rank=number, seconds=seconds, products=[product], messages=list(messages)
    )


def profile(tp_size: int, *, emulated: bool = False, messages: bool = True) -> Any:
    sent = [SimpleNamespace(bytes=1_048_576, calls=64, seconds=30e-6)] if messages else []
    ranks = [rank(i, *sent) for i in range(1 if emulated else tp_size)]
    return SimpleNamespace(
        tp_size=tp_size, batch=128, dtype="bf16", device="cuda", emulated=emulated,
        peak_rates=[LIMIT], prefill=ranks, decode=ranks,
    )  # fmt: skip


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_every_rank_has_a_row_for_prefill_and_one_for_decode() -> None:
    parts = profile_tables(profile(2))[0]
    assert parts.title == "TP=2, batch 128 (all ranks, bf16, cuda)"
    assert [row[:2] for row in texts(parts)] == [
        ["prefill", "0"],
        ["prefill", "1"],
        ["decode", "0"],
        ["decode", "1"],
    ]
    assert texts(parts)[0][2:] == ["1.000", "2.000", "3.000", "4.000", "5.000"]
    assert parts.notes == ("measured peak of a rank: memory copy 100.0 GB/s, GEMM 2000 GFLOP/s",)


def test_a_product_is_compared_with_the_measured_peaks() -> None:
    products = profile_tables(profile(2))[1]
    # 1.5 of 2 TFLOP/s; 40 of 100 GB/s
    assert texts(products)[0] == [
        *("prefill", "gate_up_proj", "128x4096", "11008x4096", "32", "250", "1,500", "75"),
        *("40.0", "40"),
    ]


@pytest.mark.parametrize(
    ("tp_size", "emulated", "shown"), [(2, False, "30.0"), (1, False, "–"), (4, True, "–")]
)
def test_a_message_has_a_time_only_where_ranks_exchange_it(
    tp_size: int, emulated: bool, shown: str
) -> None:
    messages = profile_tables(profile(tp_size, emulated=emulated))[2]
    assert texts(messages)[0] == ["prefill", "1,048,576", "64", shown]


def test_a_rank_that_sends_nothing_has_no_table_of_messages() -> None:
    made = profile_tables(profile(1, messages=False))
    assert [table.name for table in made] == ["parts", "products"]


def test_an_emulated_profile_says_that_it_is_one_shard() -> None:
    assert "one rank's shard only" in profile_tables(profile(8, emulated=True))[0].title
