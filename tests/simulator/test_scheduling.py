"""How engines form their steps, the server beside them, and sessions, with times worked out by
hand."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from shardwise.errors import InputError
from shardwise.layout.deployment import Deployment, Layout
from shardwise.simulator.fleet import Failure, Group, make_group
from shardwise.simulator.scheduling import VLLM_GRAPHS, Scheduling, padded, scheduling_of
from shardwise.simulator.sessions import SessionTraffic, draw_sessions
from shardwise.simulator.simulate import simulate
from shardwise.simulator.steptable import StepTable
from shardwise.simulator.surface import plane
from shardwise.simulator.trace import make_trace
from shardwise.simulator.traffic import Lengths


def toy(rules: Scheduling, replicas: int = 1, capacity: int = 10_000, seqs: int = 8) -> Group:
    """Replicas whose every step takes 1 s."""
    flat = StepTable(np.ones(seqs + 2), np.ones(514), plane(0.0), plane(0.0))
    return Group(
        Deployment("toy", "h200", Layout(replicas=replicas)), flat, seqs, 512, capacity, 10**9,
        0.0, 0.0, 0.0, {}, scheduling=rules,
    )  # fmt: skip


def test_prompts_run_beside_decodes_or_before_them() -> None:
    # A has tokens at 1 and 2 s; B comes at 1.5 s: beside it A ends at 5 s, before it at 6 s
    trace = make_trace(np.array([0.0, 1.5]), np.array([10, 10]), np.array([5, 2]))
    mixed = simulate([toy(Scheduling())], trace).requests
    assert (mixed.finish.tolist(), mixed.first.tolist()) == ([5.0, 4.0], [1.0, 3.0])
    apart = simulate([toy(Scheduling(mixed=False))], trace).requests
    assert (apart.finish.tolist(), apart.first.tolist()) == ([6.0, 4.0], [1.0, 3.0])


def test_requests_wait_one_step_more_for_vllm_that_schedules_ahead() -> None:
    def steps(version: str) -> float:
        deployment = Deployment("llama-3.1-8b", "h200", engine_version=version)
        return make_group(deployment).delay_steps

    assert steps("0.15.1") > steps("0.13.0") + 0.5


def test_admission_keeps_room_for_what_running_requests_may_still_ask_for() -> None:
    # at 2 s A holds 41 tokens, takes one more, and has 58 to come; B's prompt is 40 and it has 1
    trace = make_trace(np.array([0.0, 1.5]), np.array([40, 40]), np.array([60, 1]))
    for reserve, capacity, admitted in (
        (0.0, 100, True),
        (1.0, 41 + 1 + 40 + 59, True),
        (1.0, 41 + 1 + 40 + 58, False),
    ):
        rules = Scheduling(reserve=reserve)
        q = simulate([toy(rules, capacity=capacity)], trace).requests
        assert (q.finish[1] == 3.0) == admitted, (reserve, capacity)


def test_a_new_block_is_taken_when_the_last_is_full() -> None:
    # 2 x 16 tokens are a block each; the first decode step wants two more, and there are three
    trace = make_trace(np.zeros(2), np.array([16, 16]), np.array([3, 3]))
    result = simulate([toy(Scheduling(16), capacity=48)], trace)
    assert result.requests.preemptions.tolist() == [0, 1]
    assert simulate([toy(Scheduling(16), capacity=64)], trace).preemptions == 0


def test_steps_are_padded_to_the_sizes_that_were_captured() -> None:
    table = np.arange(600, dtype=np.float64)
    read = padded(table, VLLM_GRAPHS)
    assert [read[n] for n in (0, 1, 3, 4, 5, 9, 248, 249, 257, 512, 513)] == [
        0, 1, 4, 4, 8, 16, 248, 256, 272, 512, 513,
    ]  # fmt: skip
    assert scheduling_of("vllm").block_tokens == 16
    assert scheduling_of("builtin") == Scheduling()


def test_the_servers_work_for_tokens_delays_what_clients_see_and_not_the_engine() -> None:
    trace = make_trace(np.array([0.0]), np.array([10]), np.array([3]))
    quick = simulate([toy(Scheduling(token_s=0.1))], trace).requests
    assert [quick.first[0], quick.finish[0]] == pytest.approx([1.1, 3.1])
    # 2 s of work a token, 1 s a step: tokens are ready at 1, 2, 3 s and seen at 3, 5, 7 s
    slow = simulate([toy(Scheduling(token_s=2.0))], trace).requests
    assert [slow.first[0], slow.finish[0]] == pytest.approx([3.0, 7.0])


def test_a_request_waits_for_the_tokens_before_it_in_the_servers_queue() -> None:
    # A's first token is ready at 1.5 s (0.5 s for the request) and takes until 3.5 s;
    # B comes at 2 s, is parsed from 3.5 to 4.0 s, and its prompt runs from 4.5 to 5.5 s
    trace = make_trace(np.array([0.0, 2.0]), np.array([10, 10]), np.array([1, 1]))
    one = replace(toy(Scheduling(request_s=0.5, token_s=2.0)), delay_s=0.5)
    q = simulate([one], trace).requests
    assert q.first[0] == pytest.approx(3.5)
    assert q.ready.tolist() == pytest.approx([0.5, 4.0])
    assert q.first[1] == pytest.approx(7.0)  # engine done at 5.0, and 2 s for the token


def sessions() -> SessionTraffic:
    return SessionTraffic(0.5, 4, Lengths(20, 0.5), Lengths(10, 0.5), 6.0, 60.0, 2, 30)


def test_a_turn_is_sent_a_think_time_after_the_answer_to_the_one_before() -> None:
    trace = draw_sessions(sessions())
    q = simulate([toy(Scheduling(), 2)], trace).requests
    found = trace.sessions
    assert found is not None
    later = np.flatnonzero(found.previous >= 0)
    assert len(later) > 30
    assert q.arrival[later] == pytest.approx(q.finish[found.previous[later]] + found.think_s[later])
    assert (q.isl[later] > q.isl[found.previous[later]]).all()
    assert (q.status == 1).all()


def test_a_session_stays_with_its_replica_until_that_fails() -> None:
    trace = draw_sessions(sessions())
    found = trace.sessions
    assert found is not None
    group = toy(Scheduling(), 3)
    sticky = simulate([group], trace, policy="session_sticky").requests
    later = np.flatnonzero(found.previous >= 0)
    assert (sticky.replica[later] == sticky.replica[found.previous[later]]).all()
    lost = simulate([group], trace, policy="session_sticky", failures=[Failure(0, 40.0)])
    assert lost.outcomes()["pending"] == 0
    assert (lost.requests.replica[lost.requests.arrival > 41.0] != 0).all()


def test_balancers_that_know_the_prefixes_find_more_than_those_that_do_not() -> None:
    trace = draw_sessions(SessionTraffic(1.0, 5, Lengths(64), Lengths(16), 4.0, 60.0))
    found = {
        policy: simulate([toy(Scheduling(), 4, 100_000)], trace, policy=policy).hit_rate()
        for policy in ("least_loaded", "cache_aware", "prefix_aware", "session_sticky")
    }
    assert found["least_loaded"] < 0.7 * found["cache_aware"]
    for policy in ("cache_aware", "prefix_aware", "session_sticky"):
        assert found[policy] > 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"turns": float("inf")}, "turns is inf; allowed: 1 to 1000; a session must end"),
        ({"duration_s": 0.0}, "duration is 0 s"),
        ({"session_rate": 0.0}, "session rate is 0"),
        ({"think_s": -1.0}, "think time is -1 s"),
        ({"duration_s": 1e8}, "allowed: up to 20,000,000"),
    ],
)
def test_sessions_that_cannot_be_drawn_are_refused(changed: dict[str, float], message: str) -> None:
    good = SessionTraffic(1.0, 4.0, Lengths(10), Lengths(10), 5.0, 60.0)
    with pytest.raises(InputError, match=message):
        replace(good, **changed)


def test_sessions_have_their_own_pace() -> None:
    with pytest.raises(InputError, match="sessions with a concurrency"):
        simulate([toy(Scheduling())], draw_sessions(sessions()), concurrency=4)
