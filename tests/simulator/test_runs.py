"""What a run conserves, agrees with in theory, and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.fleet import Failure, Group
from shardwise.simulator.results import Result
from shardwise.simulator.routing import POLICIES
from shardwise.simulator.simulate import simulate
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import Trace, make_trace, one_prefix
from shardwise.simulator.traffic import Lengths, Traffic, draw
from shardwise.workload.workload import Slo

needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")


def toy(
    replicas: int = 1,
    seqs: int = 8,
    capacity: int = 100_000,
    step_s: float = 0.01,
    budget: int = 512,
    slope: float = 0.0,
) -> Group:
    """Replicas whose every step takes `step_s`, and `slope` more for each cached token."""
    table = StepTable(
        np.full(seqs + 2, step_s), np.full(budget + 2, step_s), plane(slope), plane(0.0)
    )
    return Group(
        Deployment("toy", "h200", Layout(replicas=replicas)), table, seqs, budget, capacity, 10**9,
        0.0, 0.0, 0.0, {},
    )  # fmt: skip


def times(result: Result) -> list[list[float]]:
    q = result.requests
    return [q.first.tolist(), q.finish.tolist()]


def test_a_lone_request_takes_a_prefill_step_and_a_step_for_each_further_token() -> None:
    trace = make_trace(np.array([2.0]), np.array([100]), np.array([5]))
    result = simulate([toy(step_s=0.5)], trace)
    assert times(result) == [[2.5], [4.5]]  # 2.0 + 0.5 prefill, then 4 tokens x 0.5


def test_a_prompt_above_the_token_budget_is_prefilled_in_chunks() -> None:
    trace = make_trace(np.array([0.0]), np.array([1200]), np.array([1]))
    assert times(simulate([toy(step_s=1.0)], trace)) == [[3.0], [3.0]]  # 512 + 512 + 176


def test_steps_read_one_more_token_each() -> None:
    # prefill 1 s, then contexts 10, 11, 12 at 0.1 s a token: 1 + (2.0 + 2.1 + 2.2)
    trace = make_trace(np.array([0.0]), np.array([10]), np.array([4]))
    result = simulate([toy(step_s=1.0, slope=0.1)], trace)
    assert result.requests.finish[0] == pytest.approx(7.3)


def test_the_request_admitted_last_is_preempted_when_memory_runs_out() -> None:
    # 2 x (10 + 10) tokens want 38 cached at the end; 30 hold 2 x 10 and 5 steps of two
    trace = make_trace(np.zeros(2), np.array([10, 10]), np.array([10, 10]))
    result = simulate([toy(capacity=30, step_s=1.0)], trace)
    assert result.outcomes()["done"] == 2
    assert result.requests.preemptions.tolist() == [0, 1]
    assert result.requests.finish[0] == 10.0
    assert int(result.replicas.kv_peak.max()) <= 30


def test_a_request_that_can_never_fit_is_rejected() -> None:
    trace = make_trace(np.zeros(2), np.array([31, 10]), np.array([1, 1]))
    assert simulate([toy(capacity=30)], trace).outcomes() == {
        "pending": 0, "done": 1, "rejected": 1, "failed": 0,
    }  # fmt: skip


@st.composite
def jobs(draw_from: st.DrawFn) -> tuple[Group, Trace, str, int]:
    n = draw_from(st.integers(1, 40))
    rng = np.random.default_rng(draw_from(st.integers(0, 2**16)))
    trace = make_trace(
        np.cumsum(rng.exponential(draw_from(st.sampled_from([0.001, 0.02, 0.3])), n)),
        rng.integers(1, 60, n),
        rng.integers(1, 30, n),
    )
    if draw_from(st.booleans()):
        trace = replace(
            trace,
            isl=trace.isl + 16,
            shared=one_prefix(rng.integers(-1, 3, n), np.full(3, 16, dtype=np.int64)),
        )
    group = toy(
        draw_from(st.integers(1, 4)),
        draw_from(st.integers(1, 6)),
        draw_from(st.integers(20, 200)),
        budget=draw_from(st.integers(8, 64)),
        slope=draw_from(st.sampled_from([0.0, 1e-4])),
    )
    return group, trace, draw_from(st.sampled_from(POLICIES)), draw_from(st.integers(0, 5))


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_no_request_is_lost_work_is_conserved_and_memory_never_exceeded(
    job: tuple[Group, Trace, str, int],
) -> None:
    group, trace, policy, concurrency = job
    result = simulate([group], trace, policy=policy, concurrency=concurrency)
    q = result.requests
    outcomes = result.outcomes()
    assert outcomes["pending"] == outcomes["failed"] == 0
    assert outcomes["done"] + outcomes["rejected"] == len(trace)
    done = q.status == 1
    assert (q.generated[done] == q.osl[done]).all()
    assert (q.first[done] > q.arrival[done]).all()
    assert (q.finish[done] >= q.first[done] + 0.0099 * (q.osl[done] - 1)).all()
    too_long = q.isl + q.osl - 1 > group.kv_capacity_tokens
    assert (done == ~too_long).all()
    assert (result.replicas.kv_peak <= group.kv_capacity_tokens).all()
    # everything is given back: what remains are cached prefixes that nobody uses
    assert (result.replicas.kv_used == result.replicas.evictable).all()
    assert (result.replicas.outstanding == 0).all()


@settings(max_examples=40, deadline=None)
@given(jobs(), st.integers(0, 3), st.floats(0.01, 2.0))
def test_with_failures_every_request_still_ends_somewhere(
    job: tuple[Group, Trace, str, int], replica: int, down_s: float
) -> None:
    group, trace, policy, concurrency = job
    failure = Failure(replica % group.deployment.replicas, down_s, down_s + 0.5)
    result = simulate([group], trace, policy=policy, concurrency=concurrency, failures=[failure])
    assert result.outcomes()["pending"] == 0
    assert (result.replicas.kv_used == result.replicas.evictable).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(2.0, 60.0), st.integers(1, 3))
def test_more_replicas_never_lower_goodput_under_least_loaded(
    seed: int, rate: float, replicas: int
) -> None:
    trace = draw(Traffic(rate, Lengths(64), Lengths(16), 20.0 / rate + 2.0), seed)
    slo = Slo(ttft_s=0.1)
    fewer = simulate([toy(replicas, seqs=2)], trace).good(slo).sum()
    more = simulate([toy(replicas + 1, seqs=2)], trace).good(slo).sum()
    assert more >= fewer


def test_among_equally_loaded_replicas_the_one_whose_latest_request_is_oldest_gets_the_next() -> (
    None
):
    # steps of 0.1 s. The second request runs until 2 s; the others end before the next one comes,
    # but the fourth, which is there when the fifth finds one request at each replica
    sent, osl = np.array([0.0, 0.01, 0.5, 0.8, 0.9]), np.array([2, 20, 2, 5, 2])
    result = simulate([toy(2, step_s=0.1)], make_trace(sent, np.full(5, 8), osl))
    assert result.requests.replica.tolist() == [0, 1, 0, 0, 1]


def test_the_same_seed_gives_the_same_run() -> None:
    traffic = Traffic(20.0, Lengths(64, 0.5), Lengths(16, 0.5), 20.0, "bursty")
    runs = [simulate([toy(4)], draw(traffic, 3), policy="power_of_two", seed=3) for _ in range(2)]
    assert times(runs[0]) == times(runs[1])


@needs_numba
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_and_equal_requests_wait_as_in_an_md1_queue(load: float) -> None:
    # service: prefill + 9 tokens = 10 steps of 0.01 s; W = rho s / (2 (1 - rho)), Pollaczek 1930
    service = 0.1
    traffic = Traffic(load / service, Lengths(8), Lengths(10), 200_000 * service / load)
    result = simulate([toy(seqs=1)], draw(traffic))
    wait = float(result.latency("e2e_latency_s").mean()) - service
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.06)


@needs_numba
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_one_slot_and_exponential_lengths_wait_as_in_an_mm1_queue(load: float) -> None:
    # W = rho s / (1 - rho), Erlang 1909; lengths in steps of 1/1000 of the mean
    service, n = 0.1, 200_000
    rng = np.random.default_rng(1)
    osl = np.maximum(1, np.rint(rng.exponential(1000, n))).astype(np.int64)
    arrival = np.cumsum(rng.exponential(service / load, n))
    trace = make_trace(arrival, np.full(n, 8), osl)
    result = simulate([toy(seqs=1, step_s=service / 1000, capacity=10**7)], trace)
    wait = float(result.latency("e2e_latency_s").mean()) - service
    assert wait == pytest.approx(load * service / (1 - load), rel=0.06)


@needs_numba
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.floats(5.0, 60.0))
def test_littles_law_holds_between_the_timeline_and_the_latencies(seed: int, rate: float) -> None:
    # L = lambda W: the integral of requests present is the sum of the times they were present.
    # The timeline sees an arrival at the next step boundary, 0.01 s later at most.
    trace = draw(Traffic(rate, Lengths(64, 1.0), Lengths(50, 1.0), 100.0), seed)
    result = simulate([toy(2)], trace)
    line = result.timeline()
    present = float((line.running + line.waiting).sum() * result.loop.bin_s[0])
    sojourn = float(result.latency("e2e_latency_s").sum())
    assert sojourn - 0.011 * len(trace) <= present <= sojourn * 1.0001


def test_a_failed_replica_cuts_its_streams_and_hands_on_its_queue() -> None:
    trace = make_trace(np.array([0.0, 0.0, 0.05, 0.05]), np.full(4, 8), np.full(4, 100))
    result = simulate([toy(2, seqs=1)], trace, failures=[Failure(0, 0.2)])
    assert result.outcomes() == {"pending": 0, "done": 3, "rejected": 0, "failed": 1}


def test_the_cache_aware_balancer_keeps_a_prefix_on_its_replica() -> None:
    trace = draw(Traffic(4.0, Lengths(64), Lengths(4), 50.0, prefixes=4, prefix_tokens=400))
    found = {
        policy: int((simulate([toy(4)], trace, policy=policy).requests.cached > 0).sum())
        for policy in ("round_robin", "cache_aware")
    }
    assert found["cache_aware"] == len(trace) - 4  # all but the first of each prefix
    assert found["round_robin"] == len(trace) - 16  # the first of each prefix at each replica


def test_a_rate_beyond_capacity_is_overload_and_one_below_is_not() -> None:
    # one slot, 0.1 s a request: 10 requests/s at most
    def at(rate: float) -> bool:
        return simulate(
            [toy(seqs=1)], draw(Traffic(rate, Lengths(8), Lengths(10), 60.0))
        ).overloaded

    assert not at(7.0)
    assert at(15.0)


def test_what_cannot_be_simulated_is_refused_in_one_line() -> None:
    trace = make_trace(np.zeros(1), np.array([8]), np.array([2]))
    with pytest.raises(InputError, match=r"policy 'best'; allowed: round_robin"):
        simulate([toy()], trace, policy="best")
    with pytest.raises(InputError, match="replica 3; allowed: 0 to 0"):
        simulate([toy()], trace, failures=[Failure(3, 1.0)])
    with pytest.raises(InputError, match="0 requests"):
        draw(Traffic(0.01, Lengths(8), Lengths(8), 1.0))
    with pytest.raises(InputError, match="the trace requests model 'other'; deployed: toy"):
        simulate([toy()], replace(trace, models=("other",)))
