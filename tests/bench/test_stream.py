"""A stream reads the same however its bytes are cut, and whichever line ends it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise.bench.stream import Stream
from shardwise.evidence.request import RequestRecord

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Transport(asyncio.Transport):
    """Takes what is written; closing it is only noted."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def _read(receives: Sequence[bytes], asked: int, *, closes: bool = False) -> RequestRecord:
    """The record of a request that is answered by these receives."""

    async def read() -> RequestRecord:
        stream = Stream()
        stream.connection_made(_Transport())
        record = RequestRecord(0, 0.0, asked)
        stream.start(record, b"POST")
        for data in receives:
            stream.data_received(data)
        if closes:
            stream.connection_lost(None)
        return record

    return asyncio.run(read())


def _chunked(body: bytes, sizes: Sequence[int]) -> bytes:
    """`body` in HTTP chunks of these sizes, over and over."""
    out, at, i = b"", 0, 0
    while at < len(body):
        piece = body[at : at + sizes[i % len(sizes)]]
        out += b"%x\r\n%s\r\n" % (len(piece), piece)
        at += len(piece)
        i += 1
    return out + b"0\r\n\r\n"


def _body(texts: Sequence[str], end: bytes = b"\n", reason: str | None = "length") -> bytes:
    """A completions stream of these texts, its lines ended by `end`."""
    events: list[dict[str, Any]] = [
        {"choices": [{"text": text, "finish_reason": None}]} for text in texts
    ]
    events.append({"choices": [{"text": "", "finish_reason": reason}]})
    usage = {"prompt_tokens": 7, "completion_tokens": len(texts)}
    events.append({"choices": [], "usage": usage})
    blank = end * 2
    said = [b"data: " + json.dumps(e, ensure_ascii=False).encode() + blank for e in events]
    return b"".join([b": ping" + blank, *said, b"data: [DONE]" + blank])


def _cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


texts = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12)
cuts = st.lists(st.integers(0, 10_000), max_size=30)


@settings(deadline=None)
@given(
    texts,
    cuts,
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]),
)
def test_any_cut_of_the_bytes_reads_the_same(
    said: list[str], at: list[int], sizes: list[int], end: bytes, mark: bytes, interim: bytes
) -> None:
    # cuts fall inside events, inside characters and between CR and LF; chunks likewise
    data = interim + HEAD + _chunked(mark + _body(said, end), sizes)
    record = _read(_cut(data, at), len(said))
    assert (record.failure, record.detail) == (None, "")
    assert len(record.arrivals) == record.output_tokens == len(said)
    assert record.input_tokens == 7
    assert record.last_s == record.arrivals[-1]
    assert list(record.arrivals) == sorted(record.arrivals)


def _with_event(event: bytes) -> RequestRecord:
    """The record of a whole answer of two tokens that has one event more before its [DONE]."""
    done = b"data: [DONE]\n\n"
    body = _body(["a", "b"]).replace(done, b"data: " + event + b"\n\n" + done)
    return _read([HEAD + _chunked(body, [1_000_000])], 2)


@pytest.mark.parametrize(
    "count", ["-7", "1e300", "1e400", "9" * 30, "NaN", '"x"', "[1]", '{"a":1}']
)
def test_a_number_of_tokens_that_no_request_has_is_malformed(count: str) -> None:
    for usage in ('{"prompt_tokens":%s,"completion_tokens":2}', '{"completion_tokens":%s}'):
        event = '{"choices":[],"usage":' + usage % count + "}"
        assert _with_event(event.encode()).failure == "malformed", event


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
names = st.sampled_from(["choices", "usage", "delta", "text", "finish_reason", "error", "index"])


@settings(deadline=None)
@given(
    st.dictionaries(
        names,
        odd
        | st.lists(st.dictionaries(names, odd, max_size=3), max_size=2)
        | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), odd, max_size=2),
        max_size=4,
    )
)
def test_an_event_of_any_form_is_read_or_a_failure_of_its_request(event: dict[str, Any]) -> None:
    record = _with_event(json.dumps(event).encode())
    assert 0 <= record.input_tokens <= 10**8
    assert 0 <= record.output_tokens <= 10**8


@settings(deadline=None)
@given(texts, cuts)
def test_a_stream_that_ends_early_is_never_a_success(said: list[str], at: list[int]) -> None:
    whole = HEAD + _chunked(_body(said), [1_000_000])
    # the last thing a whole answer needs is the [DONE] line; whatever is cut before it fails
    needed = whole.rindex(b"[DO")
    for length in {place % needed for place in [*at, needed - 1]}:
        record = _read([whole[:length]], len(said), closes=True)
        assert record.failure == "cut"


@settings(deadline=None)
@given(st.binary(max_size=200), cuts)
def test_no_bytes_raise_and_random_ones_are_never_a_success(noise: bytes, at: list[int]) -> None:
    for data in (noise, HEAD + _chunked(noise or b"x", [64])):
        record = _read(_cut(data, at), 1, closes=True)
        assert record.failure is not None


def test_a_line_without_end_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwise.bench.lines.LONGEST", 1000)
    record = _read([HEAD, *(b"3e8\r\n" + b"x" * 1000 + b"\r\n" for _ in range(3))], 1)
    assert record.failure == "malformed"
    assert record.detail == "a line longer than 1000 bytes"


def test_a_switch_to_another_protocol_is_no_crash() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n\x00"
    record = _read([head], 1)
    assert record.failure == "http_other"


def test_an_event_over_several_data_lines_is_one_event() -> None:
    body = b'data: {"choices": [{"text": "a",\ndata:  "finish_reason": "length"}]}\n\n'
    usage = b'data: {"usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
    record = _read([HEAD + _chunked(body + usage, [1000])], 1)
    assert record.failure is None
    assert len(record.arrivals) == 1


def test_a_done_without_an_end_of_line_counts() -> None:
    body = _body(["a", "b"]).rstrip(b"\n")
    assert _read([HEAD + _chunked(body, [40])], 2).failure is None


def test_one_receive_gives_its_tokens_one_time() -> None:
    record = _read([HEAD + _chunked(_body(["a", "b", "c"]), [10_000])], 3)
    assert len(set(record.arrivals)) == 1
    assert len(record.arrivals) == 3


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        (b'event: error\ndata: {"message": "out of memory"}\n\n', "error_event"),
        (b'data: {"object": "error", "message": "no", "code": 400}\n\n', "error_event"),
        (b'data: {"error": "x"}\n\n', "error_event"),
        (b"data: 7\n\n", "malformed"),
        (b"data: not json\n\n", "malformed"),
        (b'data: {"choices": [7]}\n\n', "malformed"),
        (b'data: {"choices": [], "usage": {"prompt_tokens": "many"}}\n\n', "malformed"),
        (b"<html>busy</html>\n", "malformed"),
        (b"", "missing_finish"),
    ],
)
def test_what_goes_wrong_inside_a_stream_has_its_kind(events: bytes, kind: str) -> None:
    record = _read([HEAD + _chunked(events + b"\n", [1000])], 1)
    assert record.failure == kind


@pytest.mark.parametrize(("status", "kind"), [(302, "http_other"), (404, "http_4xx")])
def test_a_status_that_ends_by_closing_is_that_status(status: int, kind: str) -> None:
    head = b"HTTP/1.1 %d X\r\nConnection: close\r\n\r\ngone" % status
    record = _read([head], 1, closes=True)
    assert record.failure == kind
    assert record.detail == f"{status} gone"


def test_reasoning_counts_as_text_and_an_empty_delta_does_not() -> None:
    deltas = [{"role": "assistant", "content": ""}, {"reasoning": "hm"}, {"reasoning_content": "m"}]
    events = [{"choices": [{"delta": d}]} for d in [*deltas, {"content": "a"}]]
    events[-1]["choices"][0]["finish_reason"] = "stop"  # type: ignore[assignment]
    body = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    record = _read([HEAD + _chunked(body + b"data: [DONE]\n\n", [1000])], 3)
    assert record.failure is None
    assert len(record.arrivals) == 3
    assert not record.usage_reported


def test_without_usage_fewer_pieces_than_asked_say_what_was_counted() -> None:
    body = b'data: {"choices": [{"text": "ab", "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'
    record = _read([HEAD + _chunked(body, [1000])], 2)
    assert record.failure == "short"
    assert record.detail == "1 pieces of text (no usage was sent) of 2"


def _completions(texts: Sequence[str], tokens: int, *, finish_apart: bool) -> bytes:
    """A stream of these texts, by whose usage there were `tokens`."""
    reasons = [None] * len(texts) if finish_apart else [None] * (len(texts) - 1) + ["length"]
    pairs = list(zip(texts, reasons, strict=True)) + ([("", "length")] if finish_apart else [])
    events: list[dict[str, Any]] = [
        {"choices": [{"text": text, "finish_reason": reason}]} for text, reason in pairs
    ]
    events.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}})
    return b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events) + (
        b"data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    ("said", "tokens", "finish_apart", "arrivals"),
    [
        (["", "", "a"], 3, False, 3),  # two halves of a character, then text
        (["", "", ""], 3, False, 3),  # special tokens only, the last with the finish
        (["a", "", "b"], 3, True, 3),  # the finish is an event of its own, no token
        (["a", "", "b"], 9, True, 2),  # several tokens an event: the empty one may be none
        (["a", "bc"], 3, True, 3),  # as many events as tokens
        (["a", "bcd"], 4, True, 2),
    ],
)
def test_events_without_text_are_tokens_where_usage_shows_one_token_an_event(
    said: list[str], tokens: int, finish_apart: bool, arrivals: int
) -> None:
    body = _completions(said, tokens, finish_apart=finish_apart)
    record = _read([HEAD + _chunked(body, [1000])], tokens)
    assert record.failure is None
    assert len(record.arrivals) == arrivals
    assert list(record.arrivals) == sorted(record.arrivals)


def test_an_answer_of_which_nothing_came_but_usage_is_short() -> None:
    body = b'data: {"choices": [{"finish_reason": "stop"}]}\n\n'
    body += b'data: {"usage": {"completion_tokens": 5}}\n\ndata: [DONE]\n\n'
    record = _read([HEAD + _chunked(body, [1000])], 5)
    assert record.failure == "short"
    assert record.detail == "no text, though usage counts 5 tokens"
