"""Pools of prefill and decode replicas: two turns of each request, one answer."""

from __future__ import annotations

import numpy as np
import pytest

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, EngineLimits, Layout
from shardwise.perfmodel import pools as closed_form
from shardwise.perfmodel.subject import Asked, subject_of
from shardwise.simulator.compiling import HAS_NUMBA
from shardwise.simulator.disaggregated import Pools, in_two_turns, make_pools, simulate_pools
from shardwise.simulator.evidence import evidence
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.trace import make_trace, one_prefix
from shardwise.simulator.traffic import Lengths, Traffic, draw

LAYOUT = Layout(tp_size=2)


def pools(prefill: int, decode: int) -> Pools:
    one, other = (
        Deployment(
            "llama-3.1-70b",
            "h200",
            Layout(tp_size=2, replicas=replicas),
            EngineLimits(max_num_seqs=1024),
        )
        for replicas in (prefill, decode)
    )
    return make_pools(one, other)


def test_a_lone_request_passes_prefill_transfer_and_a_decode_step_for_each_token() -> None:
    made = pools(1, 1)
    trace = make_trace(np.zeros(1), np.array([1000]), np.array([20]))
    run = simulate_pools(made, trace, policy="round_robin").expected
    ttft, tpot = float(run.latency("ttft_s")[0]), float(run.latency("tpot_s")[0])
    table = made.decode.table
    # 19 further tokens, each a decode step over 1,010 cached tokens on average
    nearest = int(np.searchsorted(table.reads.columns, 1010))  # 1,024 tokens
    step = table.decode[1] + table.reads.seconds[0, nearest]
    assert tpot == pytest.approx(step, rel=0.02)
    # a request is received by both pools; both are idle, so it waits for no step
    received = made.decode.delay_s + 1000 * made.decode.tokenize_s
    alone = made.prefill.table.prompt[1000] + float(made.transfer_s(trace.isl)[0]) + step
    assert ttft == pytest.approx(alone + 2 * received, rel=0.1)
    assert run.outcomes()["done"] == 1


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
def test_pools_agree_with_the_closed_form_where_prompts_hardly_queue() -> None:
    made, rate, isl, osl = pools(1, 3), 3.0, 1000, 500
    trace = draw(Traffic(rate, Lengths(isl), Lengths(osl), 400.0))
    (record,) = evidence(simulate_pools(made, trace, policy="least_loaded"))
    subject, _ = subject_of(Asked("llama-3.1-70b", "h200"))
    requests = closed_form.Requests(isl, osl)
    times = closed_form.times(subject, [LAYOUT], requests, EngineLimits())
    expected = closed_form.serve(
        subject, times, closed_form.Pools(LAYOUT, 1, LAYOUT, 3), requests, 0.0
    )
    at = np.interp(rate * osl, expected.output_tok_s, np.arange(len(expected.batch)))
    for metric, tolerance in (("tpot_s", 0.05), ("e2e_latency_s", 0.05), ("ttft_s", 0.25)):
        value = np.interp(at, np.arange(len(expected.batch)), getattr(expected, metric))
        assert record.metrics[metric].value == pytest.approx(float(value), rel=tolerance), metric


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed: too slow without")
def test_no_request_is_lost_and_prompts_do_not_slow_the_tokens_of_others() -> None:
    trace = draw(Traffic(3.0, Lengths(6000, 0.5), Lengths(200, 0.5), 120.0))
    run = simulate_pools(pools(2, 2), trace, policy="least_loaded").expected
    assert run.outcomes()["done"] == len(trace)
    assert (run.latency("ttft_s") > 0).all()
    # a decode step has a prompt's last token at most: no token waits for a prompt of 6,000
    decode = pools(2, 2).decode.table.decode
    assert float(np.nanmax(run.latency("tpot_s"))) < 3.0 * decode[64]


def test_only_the_turn_that_computes_a_prompt_looks_for_its_prefix() -> None:
    trace = make_trace(
        np.arange(3.0),
        np.full(3, 100),
        np.full(3, 7),
        one_prefix(np.array([0, -1, 0]), np.array([64])),
    )
    turns = in_two_turns(trace, np.array([0.1, 0.2, 0.3]))
    assert turns.shared is not None
    assert turns.sessions is not None
    assert np.diff(turns.shared.at).tolist() == [1, 0, 0, 0, 1, 0]
    assert turns.osl.tolist() == [1, 7, 1, 7, 1, 7]
    assert turns.sessions.previous.tolist() == [-1, 0, -1, 2, -1, 4]
    assert turns.sessions.think_s.tolist() == [0.0, 0.1, 0.0, 0.2, 0.0, 0.3]
    assert turns.received is not None
    assert turns.received.tolist() == [0, 1] * 3


def test_sessions_in_pools_are_refused() -> None:
    talk = draw_sessions(SessionTraffic(1.0, 3, Lengths(64), Lengths(16), 1.0, 10.0))
    with pytest.raises(InputError, match="disaggregated pools with sessions"):
        simulate_pools(pools(1, 1), talk, policy="round_robin")
