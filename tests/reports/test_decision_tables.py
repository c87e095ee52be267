from __future__ import annotations

from shardwise.analysis.audit import audit_grid, audit_steps
from shardwise.analysis.claim import match_claim
from shardwise.analysis.cost import Node, node_costs
from shardwise.analysis.grid import Grid, index
from shardwise.analysis.published import load_published
from shardwise.evidence.record import Interval
from shardwise.reports.decision_tables import (
    Value,
    audit_table,
    claim_table,
    cost_table,
    ranked_table,
)
from shardwise.reports.memory import MemoryUse, memory_table
from shardwise.reports.table import Column, Table
from shardwise.reports.table_text import render


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_cost_is_relative_to_the_largest_tp(grid: Grid) -> None:
    table = cost_table(node_costs(grid, Node(8, 2.0), ["one_copy", "full_node"], rho=1.0))
    rows = texts(table)
    # TP=1 at 16: 161.6 tok/s on 16 USD/h = 27.5 USD/Mtok; TP=8 404 tok/s: 2.5 times cheaper
    assert rows[0] == [
        "one replica",
        "16",
        "1",
        "1",
        "27.5",
        "162",
        "10.0",
        "2.50",
        "0.400",
        "2.50",
    ]
    # eight copies: 27.5 / 8 = 3.44, 3.2 times the throughput of TP=8, 1 / 3.2 of the cost
    assert rows[6][4:] == ["3.44", "1,293", "10.0", "0.312", "3.20", "2.50"]
    assert (table.rows[0][7].tone, table.rows[6][7].tone) == ("worse", "better")
    assert table.columns[4].unit == "USD/Mtok"
    assert table.columns[7].unit == "x TP8"


def test_cost_without_a_price_is_in_gpu_hours(grid: Grid) -> None:
    assert cost_table(node_costs(grid, Node(8))).columns[4].unit == "GPU-h/Mtok"


def test_a_cost_without_the_largest_tp_is_a_dash_with_its_reason(grid: Grid) -> None:
    some = index(item for cell, item in grid.items() if cell != (8, 128))
    table = cost_table(node_costs(some, Node(8), ["one_copy"]))
    assert [row[7] for row in texts(table) if row[1] == "128"] == ["–", "–"]
    assert "–: TP8 has no result at that batch" in table.notes


def test_the_claim_table_names_the_batch_that_fits_best() -> None:
    study = load_published()
    table = claim_table(match_claim(study.steps, study.claim))
    assert [row[0] for row in texts(table)] == ["16", "128", "claimed"]
    assert texts(table)[0] == ["16", "2.61", "3.10", "0.322", "4.4"]
    assert table.notes[0] == "closest: batch 16"
    assert table.notes[1].startswith("the claimed latency allows 3.20x the throughput")


def test_the_audit_table_shows_the_published_flaw() -> None:
    table = audit_table(audit_steps(load_published().steps))
    assert table.title == "Audit: 2 findings"
    assert texts(table)[0][:4] == ["broken", "littles law", "batch 128, TP=1 to TP=2", "+22.1"]


def test_an_audit_without_findings_says_what_was_checked(grid: Grid) -> None:
    text = render(audit_table(audit_grid(grid)))
    assert text.startswith("Audit: no findings\n  checks: Little's law")


def test_memory_says_by_how_much_it_fits_or_not() -> None:
    small = MemoryUse("h100", 1, "fp8", {"weights": 72e9, "kv_cache": 10e9}, 80e9)
    large = MemoryUse("mi300x", 1, "fp8", {"weights": 72e9}, 192e9)
    rows = texts(memory_table([small, large], "Memory"))
    assert rows[0] == ["h100", "1", "fp8", "72.0", "10.0", "80.0", "✗ 2.00 GB short"]
    assert rows[1] == ["mi300x", "1", "fp8", "72.0", "–", "192", "✓ 120 GB free"]


def test_a_ranked_table_scales_numbers_and_keeps_text() -> None:
    columns = [
        Column("plan", "plan", align="left"),
        Column("TPOT", "tpot_s", "s"),
        Column("rejected", "reason", align="left"),
    ]
    rows: list[dict[str, Value]] = [
        {"plan": "1 x TP8", "tpot_s": Interval(0.02, 0.018, 0.022)},
        {"plan": "8 x TP1", "tpot_s": 0.05, "reason": "TPOT over 40 ms"},
    ]
    table = ranked_table("plan", "Plan", columns, rows, ["note"])
    assert texts(table) == [["1 x TP8", "20.0", "–"], ["8 x TP1", "50.0", "TPOT over 40 ms"]]
    assert table.columns[1].unit == "ms"
    assert table.rows[0][1].detail == "(18.0–22.0)"
    assert table.rows[0][0].tone == "strong"
