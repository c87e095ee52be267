"""Closed loops: which requests count, and the throughput of a loop that neither starts nor ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.closed_loop import WAVES, ClosedLoop, draw_evenly
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.evidence import evidence
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.results import Result
from shardwise.simulator.routing import GIVE_UP_S
from shardwise.simulator.simulate import simulate
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import Trace, make_trace
from shardwise.simulator.traffic import Lengths, Traffic

STEP_S = 1 / 128  # a power of two, so that sums of steps are exact
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")


def group(model: str = "toy", replicas: int = 1, seqs: int = 64) -> Group:
    """Replicas of which every step takes the same time."""
    table = StepTable(np.full(seqs + 2, STEP_S), np.full(4098, STEP_S), plane(0.0), plane(0.0))
    return Group(
        Deployment(model, "h200", Layout(replicas=replicas)), table, seqs, 4096, 10**7, 10**9,
        0.0, 0.0, 0.0, {},
    )  # fmt: skip


def loop(
    clients: int, osl: float = 100.0, cv: float = 0.0, duration_s: float | None = None
) -> ClosedLoop:
    traffic = Traffic(1.0, Lengths(8.0), Lengths(osl, cv))
    return ClosedLoop(
        clients, lambda n: draw_evenly(traffic, n, WAVES * clients, seed=1), duration_s
    )


@pytest.mark.parametrize("clients", [1, 4, 64])
@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0])
def test_every_client_gets_a_token_a_step_whatever_the_lengths(clients: int, cv: float) -> None:
    # a request takes a step for its prompt, which gives the first token, and one for each other
    # token; the next is sent at that step's end: 128 tokens/s a client
    result = loop(clients, cv=cv).run([group()])
    assert len(result.requests.osl) == WAVES * clients
    assert result.output_tok_s() == pytest.approx(clients / STEP_S)
    # the same requests alone, counted until the last one ends, include an emptying loop
    emptying = simulate(
        [group()], loop(clients, cv=cv).requests(WAVES * clients), concurrency=clients
    )
    whole = emptying.requests.osl.sum() / emptying.end_s
    assert whole <= result.output_tok_s() * (1 + 1e-9)
    assert whole < 0.99 * result.output_tok_s() or cv == 0 or clients == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([None, 3.0, 20.0]))
def test_all_clients_are_busy_until_the_last_counted_request_ends(
    clients: int, cv: float, duration_s: float | None
) -> None:
    closed = loop(clients, 20.0, cv, duration_s)
    full = closed.run([group()])
    # the same run with everything counted shows the requests that keep the clients busy
    everyone = simulate(
        [group()], closed.requests(40 * len(full.requests.osl)), concurrency=clients
    )
    q, end_s = everyone.requests, full.end_s
    sent = q.arrival < end_s - 1e-9
    busy = np.minimum(q.finish[sent], end_s) - q.arrival[sent]
    assert busy.sum() == pytest.approx(clients * end_s)
    counted = len(full.requests.osl)
    assert q.arrival[:counted] == pytest.approx(full.requests.arrival)
    if duration_s is not None:
        assert (full.requests.arrival < duration_s).all()
        assert counted == (q.arrival < duration_s).sum()
        assert end_s >= duration_s


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clients", [4, 32])
def test_counted_requests_have_the_lengths_that_were_asked_for(clients: int, cv: float) -> None:
    osl = loop(clients, 500.0, cv).run([group()]).requests.osl
    assert osl.mean() == pytest.approx(500.0, rel=0.005)
    assert osl.std() / osl.mean() == pytest.approx(cv, rel=0.2)


@needs_numba
@pytest.mark.parametrize("duration_s", [20.0, 200.0])
def test_a_duration_favours_neither_short_nor_long_requests(duration_s: float) -> None:
    # requests that end within the duration would be too short, those that run at a time too long
    found = [loop_of(seed, duration_s).run([group()], seed=seed).requests.osl for seed in range(30)]
    tokens, n = sum(osl.sum() for osl in found), sum(map(len, found))
    assert tokens / n == pytest.approx(200.0, rel=4.0 / n**0.5)


def loop_of(seed: int, duration_s: float) -> ClosedLoop:
    """Independent lengths of 200 tokens."""

    def requests(n: int) -> Trace:
        rng = np.random.default_rng(seed)
        return make_trace(np.zeros(n), np.full(n, 8), Lengths(200.0, 1.0).draw(rng, n))

    return ClosedLoop(16, requests, duration_s)


def test_throughput_is_clients_times_tokens_over_latency() -> None:
    runs = loop(8, 50.0, 1.0).run_thrice([group(replicas=2, seqs=3)])  # requests wait for a slot
    (record,) = evidence(runs)
    osl = runs.expected.requests.osl.mean()
    latency = record.metrics["e2e_latency_s"].value
    assert record.metrics["output_tok_s"].value == pytest.approx(4 * osl / latency)  # of one
    assert record.workload.concurrency == 4
    assert record.metrics["goodput"].value == pytest.approx(8 / latency)


def test_the_throughputs_of_two_models_add_up_to_that_of_the_loop() -> None:
    n = 80

    def requests(total: int) -> Trace:
        return Trace(
            np.zeros(total), np.full(total, 8), np.full(total, 20), np.arange(total) % 4 // 3,
            models=("one", "other"),
        )  # fmt: skip

    runs = ClosedLoop(8, requests).run_thrice([group("one"), group("other")])
    one, other = evidence(runs)
    assert len(runs.expected.requests.osl) == n
    whole = runs.expected.output_tok_s()
    assert one.metrics["output_tok_s"].value == pytest.approx(0.75 * whole)
    assert other.metrics["output_tok_s"].value == pytest.approx(0.25 * whole)
    assert one.workload.concurrency + other.workload.concurrency == 8


def test_a_warm_up_leaves_the_start_out_of_every_figure() -> None:
    result = loop(4, 100.0).run([group()])
    assert result.counted(2.0).sum() == 4 * (WAVES - 3)  # requests take 100 / 128 s each
    assert result.window_s(2.0) == pytest.approx((WAVES - 3) * 100 * STEP_S)
    assert result.output_tok_s(2.0) == pytest.approx(result.output_tok_s())


def test_clients_give_up_after_a_second_without_a_replica() -> None:
    result: Result = loop(2, 100.0, duration_s=20.0).run([group()], failures=[Failure(0, 5.5, 9.5)])
    failed = result.outcomes()["failed"]
    assert failed == 2 + 2 * round(4.0 / GIVE_UP_S)  # those cut, and four seconds of attempts
    assert result.output_tok_s() < 0.85 * 2 / STEP_S


def test_more_requests_than_can_be_simulated_are_refused() -> None:
    with pytest.raises(InputError, match="more than 20,000,000 requests; lower the concurrency"):
        ClosedLoop(2_000_000, loop(4).requests).run([group()])
