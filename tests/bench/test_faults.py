"""Every way in which a server may differ or go wrong, counted as what it is.

A fault strikes every fourth of 32 requests; a manner of speaking strikes every request. The same
matrix makes docs/reliability_client.md (benchmarks/client_faults.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from shardwise.bench.client import run_load
from shardwise.bench.http import ask, require_answer, served_model
from shardwise.bench.known_answer import Behaviour
from shardwise.bench.known_modes import EXPECTED, FAULTS, MANNERS
from shardwise.bench.known_server import KnownServer, serving
from shardwise.bench.load import Load
from shardwise.bench.prompts import choose_source
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Api, Target, parse_target
from shardwise.errors import InputError
from shardwise.evidence.request import (
    FAILURES,
    RequestRecord,
    check_tokens,
    count_failures,
    sample_failures,
)

REQUESTS, OSL = 32, 6
CHAT_ONLY = ("reasoning", "tool_call")
SLOW = {"stall", "only_comments", "endless"}  #: that a limit of time ends


def _load(target: Target, concurrency: int = 4, mode: str = "") -> Load:
    """32 requests. A limit must outlast them, a second or two on a busy machine, and the requests
    that it ends must not take long."""
    body = target.request("one two three", OSL)
    return Load(
        [body] * REQUESTS,
        [OSL] * REQUESTS,
        8 if mode in SLOW else concurrency,
        stall_timeout_s=2.0 if mode in {"stall", "only_comments"} else 20.0,
        request_timeout_s=2.0 if mode == "endless" else 60.0,
    )


def _served(mode: Any, every: int = 4) -> AbstractContextManager[str]:
    return serving(Behaviour(0.005, 0.001, mode, every))


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "http2"])
def test_a_fault_in_every_fourth_request_is_counted_eight_times(fault: str, api: Api) -> None:
    kind = EXPECTED[fault].failure
    with _served(fault) as url:
        target = parse_target(url, api, "known")
        run = run_load(target, _load(target, mode=fault))
    assert len(run.records) == REQUESTS
    assert count_failures(run.records) == {kind: 8}
    assert sum(record.ok for record in run.records) == 24
    assert {sample["kind"] for sample in sample_failures(run.records)} == {kind}
    assert all(record.output_tokens == OSL for record in run.records if record.ok)


@pytest.mark.parametrize(
    ("api", "manner"),
    [
        (api, manner)
        for manner in MANNERS
        for api in ("completions", "chat")
        if api == "chat" or manner not in CHAT_ONLY
    ],
)
def test_an_answer_in_another_manner_is_a_success(manner: str, api: Api) -> None:
    with _served(manner, every=1) as url:
        target = parse_target(url, api, "known")
        run = run_load(target, _load(target))
    assert [(r.failure, r.detail) for r in run.records] == [(None, "")] * REQUESTS
    assert all(r.ttft_s >= 0.005 for r in run.records)
    found = check_tokens(run.records)
    remark = EXPECTED[manner].remark
    counted = 2 * OSL if remark == "more_than_asked" else OSL
    assert {r.output_tokens for r in run.records} == {counted}
    assert {len(r.arrivals) for r in run.records} == {3 if remark == "fewer_pieces" else OSL}
    if remark:
        assert getattr(found, remark) == REQUESTS
        assert any(said.startswith(f"{REQUESTS} answers") for said in found.remarks)
    else:
        # a machine that is busy may hand over a whole short answer at once
        assert not [said for said in found.remarks if "arrived at once" not in said]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("redirect", "307 redirects to http://elsewhere.invalid/v1"),
        ("retry_after", "Retry-After: 7; 503"),
        ("gzip", "compressed (gzip)"),
        ("html", "not a server-sent event: b'<!DOCTYPE html>'"),
        ("usage_too_low", "3 tokens of 6, but 6 pieces of text came"),
        ("only_comments", "no event, though bytes came"),
        ("endless", "0 pieces in"),
        ("http2", "HTTP/2 only"),
    ],
)
def test_a_failure_says_what_to_look_for(fault: str, says: str) -> None:
    with _served(fault, every=1) as url:
        target = parse_target(url, model="known")
        body = target.request("one", OSL)
        load = Load(
            [body],
            [OSL],
            1,
            stall_timeout_s=0.2 if fault == "only_comments" else 20.0,
            request_timeout_s=0.2 if fault == "endless" else 20.0,
        )
        run = run_load(target, load)
    (record,) = run.records
    assert record.failure == EXPECTED[fault].failure
    assert says in record.detail


def test_no_token_within_its_limit_ends_the_request() -> None:
    with known_server(0.005, 0.02, "endless", every=1) as target:
        load = Load([target.request("one", 3)], [3], 1, first_token_timeout_s=0.2)
        (record,) = run_load(target, load).records
    assert record.failure == "timeout"
    assert record.detail.startswith("no token in 0.")


def test_no_fault_is_no_failure() -> None:
    with known_server(0.005, 0.001) as target:
        run = run_load(target, _load(target))
    assert count_failures(run.records) == {}
    assert [r.index for r in run.records] == list(range(REQUESTS))
    assert all(r.usage_reported and r.input_tokens == 3 for r in run.records)
    assert all(len(r.arrivals) == r.output_tokens == OSL for r in run.records)


@pytest.mark.parametrize("mode", ["continue_100", "early_hints"])
def test_an_interim_answer_is_skipped_by_short_exchanges_too(mode: str) -> None:
    with known_server(0.005, 0.001, mode, every=1) as target:
        answer = ask(target, "/v1/completions", {"prompt": "a b", "max_tokens": 2})
    assert answer.status == 200
    assert answer.json()["usage"]["prompt_tokens"] == 2


def test_a_query_goes_with_every_request_and_is_not_shown() -> None:
    with known_server(0.005, 0.001, query="key=known") as target:
        assert "key" not in target.url
        assert served_model(target) == "known"
        assert count_failures(run_load(target, _load(target)).records) == {}
        without = parse_target(target.url, model="known")
        assert count_failures(run_load(without, _load(without)).records) == {"http_4xx": 32}


def test_a_redirect_is_named_before_a_run_begins() -> None:
    with (
        known_server(mode="redirect", every=1) as target,
        pytest.raises(InputError, match=r"\(307\) to http://elsewhere\.invalid/v1"),
    ):
        choose_source(target)


def test_a_server_of_http2_alone_is_named_before_a_run_begins() -> None:
    with (
        known_server(mode="http2", every=1) as target,
        pytest.raises(InputError, match="HTTP/2 only"),
    ):
        require_answer(target)


def test_answers_of_any_length_are_taken_where_asked_for() -> None:
    with _served("short", every=1) as url:
        target = parse_target(url, "completions", "known", exact=False)
        body = target.request("one two three", OSL)
        assert b"ignore_eos" not in body
        load = Load([body] * 8, [OSL] * 8, 2, exact=False)
        run = run_load(target, load)
    assert count_failures(run.records) == {}
    assert {r.output_tokens for r in run.records} == {OSL - 1}


class _ServerInThread:
    """The known server where the test can close and open its listener between two requests."""

    def __init__(self) -> None:
        self.server = KnownServer(Behaviour(0.001, 0.001, keep_alive=False))
        self.port = self.server.listen()
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def after(self, record: RequestRecord) -> None:
        """Every fourth request finds nobody listening; the others do."""
        if record.index % 4 == 2:
            self.server.stop_listening()
        elif record.index % 4 == 3:
            self.server.listen(self.port)


@pytest.fixture
def listener() -> Iterator[_ServerInThread]:
    server = _ServerInThread()
    yield server
    server.server.stop()
    server.thread.join(10)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_every_fourth_connection_refused_is_counted_eight_times(
    listener: _ServerInThread, api: Api
) -> None:
    target = parse_target(f"http://127.0.0.1:{listener.port}", api, "known")
    run = run_load(target, _load(target, concurrency=1), listener.after)
    assert count_failures(run.records) == {"refused": 8}
    assert [r.index for r in run.records if r.failure] == [3, 7, 11, 15, 19, 23, 27, 31]
    assert all("refused" in r.detail.lower() for r in run.records if r.failure)


def test_each_kind_is_explained_and_can_be_made() -> None:
    assert set(EXPECTED) == {*FAULTS, *MANNERS}
    made = {EXPECTED[fault].failure for fault in FAULTS} | {"refused"}
    assert made == set(FAILURES)
