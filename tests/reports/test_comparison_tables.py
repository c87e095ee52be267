"""A comparison fits the terminal, and says what differs between the runs beside their speed."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from shardwise.analysis.comparison import compare_runs
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.reports.comparison_tables import cell_name, cell_tables, overall_table
from shardwise.reports.runs import Run
from shardwise.reports.table_text import render
from shardwise.workload.workload import Workload


def cell(concurrency: int, slower: float = 1.0) -> Evidence:
    tpot, rate = 0.01234 * slower, 12345.6 / slower
    return Evidence(
        Deployment(model="m", gpu="h200", layout=Layout(tp_size=4, replicas=2), engine="vllm"),
        Workload(2048, 1024, concurrency),
        {
            "tpot_s": Interval(tpot, tpot * 0.97, tpot * 1.03, 40),
            "output_tok_s": Interval(rate, rate * 0.97, rate * 1.03, 40),
        },
        Source("measured", "test"),
    )


A = [cell(c) for c in (1, 16, 256)]
B = [cell(c, slower) for c, slower in ((1, 1.0), (16, 1.1), (256, 2.0))]


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_width_and_cut_no_number(width: int) -> None:
    found = compare_runs(A, B)
    for table in cell_tables(found):
        lines = render(table, width).splitlines()
        assert max(map(len, lines)) <= width
        for row in table.rows:
            shown = [c.text for c in row[1:4]]
            assert any(all(value in line for value in shown) for line in lines), shown


def test_what_differs_between_the_runs_is_in_the_notes() -> None:
    d = A[0].deployment
    b = [replace(item, deployment=replace(d, engine="sglang")) for item in B[:2]]
    reasons = ("client-bound", "without a completed request", "client-bound")
    before, after = Run("before", tuple(A), {"vllm": "0.9.1"}), Run("after", tuple(b), {}, reasons)
    text = render(overall_table(compare_runs(A, b), before, after))
    assert "engine: vllm in A, sglang in B" in text
    assert "vllm: 0.9.1 in A, – in B" in text
    assert "only in A, not compared: 1 cells, e.g. 2 x TP4, 256 in flight, 2048/1024" in text
    assert "skipped in B: 3 cells (2 client-bound; 1 without a completed request)" in text
    assert re.search(r"TPOT\s+2\s+\+4\.9", text)  # sqrt(1 x 1.1) = 1.0488


def test_a_rate_is_named_instead_of_a_batch() -> None:
    load = compare_runs(A[:1], A[:1]).cells[0].load
    assert load is not None
    assert cell_name(replace(load, request_rate=2.5)) == "2 x TP4, 2.5 requests/s, 2048/1024"
