"""A small study by hand: three TPs at two batches, in a closed loop that obeys Little's law."""

from __future__ import annotations

import pytest

from shardwise.analysis.grid import Grid, index
from shardwise.evidence.record import Evidence, Interval, Kind, Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload

OSL = 101
#: (tp_size, concurrency) -> E2E latency in seconds
LATENCIES = {
    (1, 16): 10.0,
    (1, 128): 40.0,
    (2, 16): 6.5,
    (2, 128): 24.0,
    (8, 16): 4.0,
    (8, 128): 12.0,
}


def make(tp_size: int, concurrency: int, e2e: float, kind: Kind, n: int) -> Evidence:
    values = {
        "e2e_latency_s": e2e,
        "ttft_s": e2e / 5,
        "tpot_s": e2e * 0.8 / (OSL - 1),
        "output_tok_s": concurrency * OSL / e2e,
        "total_tok_s": concurrency * (1000 + OSL) / e2e,
    }
    return Evidence(
        Deployment(
            model="llama-3.1-70b",
            gpu="mi300x",
            layout=Layout(tp_size=tp_size),
        ),
        Workload(1000, OSL, concurrency),
        {name: Interval(v, v / 1.1, v * 1.1, n) for name, v in values.items()},
        Source(kind, "hand-made", "2026-01-02"),
        {"weights": 0.7 * e2e, "communication": 0.2 * e2e, "queueing": 0.1 * e2e},
    )


@pytest.fixture(scope="session")
def grid() -> Grid:
    return index(make(tp, c, e2e, "predicted", 0) for (tp, c), e2e in LATENCIES.items())


@pytest.fixture(scope="session")
def measured() -> Grid:
    return index(make(tp, c, e2e * 1.05, "measured", 40) for (tp, c), e2e in LATENCIES.items())
