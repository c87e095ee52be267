"""A measured cell shows its figure, or why it has none."""

from __future__ import annotations

from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Evidence, Interval, Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.reports.measured_tables import measured_table, state
from shardwise.reports.table_text import render
from shardwise.workload.workload import Workload


def cell(concurrency: int, **conditions: object) -> Measured:
    metrics = {
        "ttft_s": Interval(0.05, 0.049, 0.051, 30),
        "output_tok_s": Interval(286.0, 280.0, 292.0, 30),
    }
    evidence = Evidence(
        Deployment(
            model="m",
            gpu="cpu",
            layout=Layout(tp_size=1),
            engine="builtin",
        ),
        Workload(8, 10, concurrency),
        metrics,
        Source("measured", "test"),
    )
    return Measured("s", str(concurrency), evidence, conditions)


def test_a_client_bound_cell_shows_no_figure_and_the_reason() -> None:
    bound = cell(4, client_bound=True, client_reasons=["receive lag of 9 ms"])
    text = render(measured_table([cell(1), bound]))
    assert "50.0" in text
    assert text.count("286") == 1
    assert "client-bound: receive lag of 9 ms" in text


def test_cells_without_remarks_are_a_table_too() -> None:
    assert "30" in render(measured_table([cell(1), cell(2)]))


def test_failures_are_named_with_their_number() -> None:
    assert state(cell(1, failures={"cut": 8, "stall": 1})) == "8 cut, 1 stall"
    assert state(cell(1, interrupted=True, oversubscribed=True)) == (
        "interrupted, more ranks than cores"
    )
