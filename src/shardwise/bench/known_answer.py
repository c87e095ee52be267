"""Answers of the server with known delays, including injected faults."""

from __future__ import annotations

import gzip
import json
from typing import Any, Final, Literal

import msgspec

from shardwise.bench.known_modes import (
    BEFORE,
    HEADERS,
    PAGE,
    TRAILER,
    UNCHUNKED,
    Fault,
    Manner,
    dressed,
)

_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_WORD: Final = " x"  #: text of every token


class Behaviour(msgspec.Struct, frozen=True):
    """`mode` applies to every `every`-th request, counted from 1; "" for no fault."""

    ttft_s: float = 0.05
    itl_s: float = 0.01
    mode: Fault | Manner | Literal[""] = ""
    every: int = 4
    keep_alive: bool = True
    query: str = ""  #: requests with a different query get 404


class Answer:
    """One streamed answer: call `head` once, then `step` for each token.

    Each word or token id of the prompt counts as a token. Raises ValueError, TypeError or
    AttributeError for a body that is not a request.
    """

    def __init__(self, behaviour: Behaviour, body: dict[str, Any], number: int) -> None:
        struck = behaviour.mode != "" and number % behaviour.every == 0
        self.mode = behaviour.mode if struck else ""
        self.keep_alive = behaviour.keep_alive
        self.sent = 0
        self.ended = False  #: no more bytes will be sent
        self.hang_up = False  #: the connection must be closed
        self._chat = "messages" in body
        self._tokens = int(body.get("max_tokens") or 16)
        if self.mode == "short":
            self._tokens = max(self._tokens - 1, 1)
        self._at_once = 2 if self.mode == "two_tokens_a_chunk" else 1
        self._strikes_at = self._tokens // 2
        self._prompt_tokens = prompt_tokens(body)
        self._piece = self._framed(self._event(None))

    def head(self) -> bytes:
        """Return status line and headers, malformed if the mode requires it."""
        version = b"1.0" if self.mode == "http10" else b"1.1"
        kind = b"text/html" if self.mode == "html" else b"text/event-stream"
        head = BEFORE.get(self.mode, b"") + b"HTTP/" + version + b" 200 OK\r\n"
        head += b"Content-Type: " + kind + b"\r\n" + HEADERS.get(self.mode, b"")
        head += b"" if self.keep_alive else b"Connection: close\r\n"
        head += b"" if self.mode in UNCHUNKED else _CHUNKED
        mark = _chunk(b"\xef\xbb\xbf") if self.mode == "byte_order_mark" else b""
        return head + b"\r\n" + mark

    def step(self) -> bytes:
        """Return the bytes of the next token; the last one includes the end of the stream."""
        said = self._strike()
        if said is not None:
            return said
        self.sent += self._at_once
        if self.sent < self._tokens:
            if self.mode == "buffered":
                return b""
            return self._piece if self.mode != "usage_in_each" else self._framed(self._event(None))
        return self._last()

    def _last(self) -> bytes:
        """Return the last token and the end of the stream."""
        self.ended = True
        self.hang_up = not self.keep_alive or self.mode in UNCHUNKED
        reason = None if self.mode == "missing_finish" else "length"
        done = b"" if self.mode == "missing_done" else b"data: [DONE]\n\n"
        alone = self.mode not in {"usage_with_finish", "no_usage"}
        usage = _data({"choices": [], "usage": self.usage()}) if alone else b""
        said = self._framed(self._event(reason) + usage + done)
        if self.mode == "buffered":
            said = self._piece * (self._tokens - 1) + said
        if self.mode in UNCHUNKED:
            return said
        return said + b"0\r\n" + (TRAILER if self.mode == "trailers" else b"") + b"\r\n"

    def whole(self) -> bytes:
        """Return the JSON answer to a request without streaming; it is sent without delay."""
        text = _WORD * self._tokens
        said = {"message": {"content": text}} if self._chat else {"text": text}
        self.sent = self._tokens
        choices = [{"index": 0, "finish_reason": "length"} | said]
        return json.dumps({"model": "known", "choices": choices, "usage": self.usage()}).encode()

    def usage(self) -> dict[str, int]:
        """Return the token counts of the answer, wrong if the mode requires it."""
        sent = min(self.sent, self._tokens)
        said = {"usage_too_low": sent // 2, "usage_too_high": 2 * sent}.get(self.mode, sent)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self._prompt_tokens + said,
        }

    def _strike(self) -> bytes | None:
        """Return the bytes of the fault sent in place of the next token; None without a fault."""
        if self.mode == "only_comments":
            return _chunk(b": keep-alive\n\n")
        if self.mode == "endless":
            return _chunk(_data({"choices": []}))
        if self.mode == "html":
            self.ended = True
            return _chunk(PAGE) + b"0\r\n\r\n"
        if self.sent != self._strikes_at:
            return None
        said = {
            "cut": b"",
            "stall": b"",
            "malformed": _chunk(b'data: {"choices": [{"te\n\n'),
            "error_event": _chunk(_data({"error": {"message": "out of memory"}})),
        }.get(self.mode)
        if said is not None:
            self.ended, self.hang_up = True, self.mode != "stall"
        return said

    def _framed(self, events: bytes) -> bytes:
        """Return events in the form of the mode, as an HTTP chunk if the body is chunked."""
        said = dressed(self.mode, events)
        if self.mode == "gzip":
            said = gzip.compress(said)
        return said if self.mode in UNCHUNKED else _chunk(said)

    def _event(self, reason: str | None) -> bytes:
        said = {"delta": self._delta()} if self._chat else {"text": _WORD * self._at_once}
        choice = {"index": 0, "logprobs": None, "finish_reason": reason} | said
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = {"id": "cmpl-0", "object": kind, "created": 0, "model": "known"}
        with_usage = self.mode == "usage_in_each" or (reason and self.mode == "usage_with_finish")
        usage = {"usage": self.usage()} if with_usage else {}
        return _data(event | {"choices": [choice]} | usage)

    def _delta(self) -> dict[str, Any]:
        if self.mode == "reasoning":
            return {"content": None, "reasoning_content": _WORD}
        if self.mode == "tool_call":
            return {"tool_calls": [{"index": 0, "function": {"arguments": _WORD}}]}
        return {"content": _WORD * self._at_once}


def prompt_tokens(body: dict[str, Any]) -> int:
    """Return the number of words or token ids in the request's prompt or messages."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        return len(prompt)
    messages = body.get("messages") or [{"content": prompt}]
    return sum(len(str(message.get("content", "")).split()) for message in messages)


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
