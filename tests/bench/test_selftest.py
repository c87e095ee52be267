"""The self-test reads a server of known delays, and says no where the reading is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shardwise.bench.http import ask, served_model
from shardwise.bench.known_answer import Answer, Behaviour
from shardwise.bench.selftest import (
    ITL_S,
    TTFT_S,
    Reading,
    SelfTest,
    check_client,
    known_server,
    selftest,
)
from shardwise.bench.target import Target, parse_target
from shardwise.errors import InputError


@pytest.fixture(scope="module")
def reading() -> Iterator[SelfTest]:
    yield from selftest([4])


def test_the_client_reads_the_known_delays(reading: SelfTest) -> None:
    # wide of the tolerances, as other tests share the machine: benchmarks/client.py holds those
    told = {r.metric: r.told_s for r in reading.readings}
    assert told == pytest.approx({"ttft_s": 0.05, "itl_s": 0.01, "e2e_latency_s": 1.04})
    assert reading.completed == reading.requests == 20
    for r in reading.readings:
        assert r.sent_s >= r.told_s * 0.98
        assert r.measured_s == pytest.approx(r.told_s, rel=0.25)
    # nothing arrives before it is sent: whatever the machine does, TTFT is not read too low
    ttft = reading.readings[0]
    assert ttft.measured_s >= TTFT_S
    assert ttft.error > -0.001
    assert reading.readings[1].n == 20 * 99
    assert reading.cpu_s_per_1000_tokens > 0


def test_its_json_holds_the_verdict_and_what_it_rests_on(reading: SelfTest) -> None:
    found = json.loads(json.dumps(reading.as_json()))
    assert found["within"] == reading.within
    assert found["readings"]["ttft_s"]["tolerance"] == 0.02
    assert found["readings"]["itl_s"]["told_s"] == ITL_S
    assert found["concurrency"] == 4


def test_a_reading_out_of_tolerance_or_a_lost_request_is_not_within(reading: SelfTest) -> None:
    good = tuple(replace(r, measured_s=r.sent_s * 1.005) for r in reading.readings)
    fine = replace(reading, readings=good)
    assert fine.within
    assert not replace(fine, completed=fine.requests - 1).within
    late = Reading("ttft_s", 0.0525, 0.05, 0.051, 20)  # 2.94 % above 51 ms
    assert late.error == pytest.approx(0.0294, abs=1e-4)
    assert late.error_against_told == pytest.approx(0.05)
    assert not late.within
    assert not replace(fine, readings=(late, *good[1:])).within


def test_a_server_that_is_slower_than_told_is_seen() -> None:
    # the client is told 50 ms and 10 ms; this server takes 100 ms and 20 ms, unknown to itself
    with known_server(0.1, 0.02) as target:
        found = check_client(target, 2, 10, osl=10)
    assert not found.within
    ttft, itl, _ = found.readings
    assert ttft.error == pytest.approx(1.0, abs=0.2)
    assert itl.error == pytest.approx(1.0, abs=0.2)


def test_a_server_that_fails_every_request_is_one_line() -> None:
    with known_server(0.01, 0.001, "http_5xx", 1) as target, pytest.raises(InputError):
        check_client(target, 1, 1, osl=2)


def test_an_unknown_fault_or_concurrency_is_refused() -> None:
    with pytest.raises(InputError, match="allowed: http_4xx"), known_server(fault="fire"):
        pass
    with pytest.raises(InputError, match="1 or more"):
        next(iter(selftest([0])))


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with known_server(0.001, 0.001) as target:
        yield target


def test_the_known_server_answers_as_an_openai_server(server: Target) -> None:
    assert ask(server, "/health").status == 200
    assert served_model(server) == "known"
    assert ask(server, "/nowhere").status == 404
    assert ask(server, "/v1/completions", [1]).status == 400
    body = {"prompt": "a b c", "max_tokens": 3}
    whole = ask(server, "/v1/completions", body).json()
    assert whole["choices"][0]["text"] == " x x x"
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def test_the_known_server_accounts_for_its_own_lateness(server: Target) -> None:
    ask(server, "/lateness")
    check = check_client(server, 1, 2, osl=5)
    assert check.requests == 2
    late = ask(server, "/lateness").json()
    assert late["tokens"] == 0  # the check has read, and so ended, its account


def test_nobody_at_an_address_is_said_so() -> None:
    nobody = parse_target("http://127.0.0.1:9")
    assert ask(nobody, "/health").status == 0
    with pytest.raises(InputError, match="no answer"):
        served_model(nobody)


def test_an_answer_counts_words_and_ends_with_usage_and_done() -> None:
    answer = Answer(Behaviour(), {"messages": [{"content": "a b"}], "max_tokens": 2}, 1)
    first, last = answer.step(), answer.step()
    assert b'"content":" x"' in first
    assert b"[DONE]" not in first
    assert answer.ended
    assert last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b'"prompt_tokens":2,"completion_tokens":2' in last
