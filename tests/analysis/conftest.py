"""Hand-made evidence that obeys Little's law and the definition of TPOT."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from shardwise.evidence.record import Evidence, Interval, Kind, Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Workload

MakeEvidence = Callable[..., Evidence]


def make(
    tp_size: int,
    concurrency: int,
    e2e_latency_s: float,
    *,
    kind: Kind = "predicted",
    spread: float = 0.1,
    isl: int = 1000,
    osl: int = 101,
) -> Evidence:
    """A closed loop with TTFT a fifth of the latency; intervals are the value x/÷ 1 + spread."""
    ttft = e2e_latency_s / 5
    values = {
        "e2e_latency_s": e2e_latency_s,
        "ttft_s": ttft,
        "tpot_s": (e2e_latency_s - ttft) / (osl - 1),
        "output_tok_s": concurrency * osl / e2e_latency_s,
        "total_tok_s": concurrency * (isl + osl) / e2e_latency_s,
    }
    return Evidence(
        deployment=Deployment(model="llama-3.1-70b", gpu="mi300x", layout=Layout(tp_size=tp_size),),
        workload=Workload(isl, osl, concurrency),
        metrics={n: Interval(v, v / (1 + spread), v * (1 + spread)) for n, v in values.items()},
        source=Source(kind, "hand-made"),
        breakdown={"weights": 0.5 * e2e_latency_s, "communication": 0.25 * e2e_latency_s,
                   "compute": 0.25 * e2e_latency_s},
    )  # fmt: skip


@pytest.fixture(scope="session")
def evidence() -> MakeEvidence:
    return make


@pytest.fixture(scope="session")
def replaced() -> Callable[..., Evidence]:
    """Evidence with some metrics' values replaced, their intervals closed around them."""

    def with_values(item: Evidence, **values: float) -> Evidence:
        closed = {name: Interval(v, v, v) for name, v in values.items()}
        return replace(item, metrics={**item.metrics, **closed})

    return with_values
