"""What the server of known delays says, and how it goes wrong when told to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Fault = Literal[
    "http_4xx",
    "http_5xx",
    "cut",
    "malformed",
    "error_event",
    "missing_finish",
    "missing_done",
    "short",
    "stall",
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

_EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"
_WORD: Final = " x"  #: every token's text


@dataclass(frozen=True)
class Behaviour:
    """`fault` strikes every `every`-th request, the first being number 1; "" for none."""

    ttft_s: float = 0.05
    itl_s: float = 0.01
    fault: Fault | Literal[""] = ""
    every: int = 4
    keep_alive: bool = True


class Answer:
    """One streamed answer: `head`, then as many times `step` as there are tokens.

    The words of a prompt, or its token ids, are its tokens. Raises ValueError, TypeError or
    AttributeError for a body that is no request.
    """

    def __init__(self, behaviour: Behaviour, body: dict[str, Any], number: int) -> None:
        struck = behaviour.fault != "" and number % behaviour.every == 0
        self.fault = behaviour.fault if struck else ""
        self.keep_alive = behaviour.keep_alive
        self.sent = 0
        self.ended = False  #: nothing more will be said
        self.hang_up = False  #: and the connection is to be closed
        self._chat = "messages" in body
        self._tokens = int(body.get("max_tokens") or 16)
        if self.fault == "short":
            self._tokens = max(self._tokens - 1, 1)
        self._strikes_at = self._tokens // 2
        self._prompt_tokens = prompt_tokens(body)
        self._piece = _chunk(self._event(None))

    def head(self) -> bytes:
        return _EVENTS + (b"" if self.keep_alive else b"Connection: close\r\n") + _CHUNKED

    def step(self) -> bytes:
        """The bytes of the next token; with the last one, what ends the stream."""
        if self.fault and self.sent == self._strikes_at:
            struck = self._strike()
            if struck is not None:
                return struck
        self.sent += 1
        if self.sent < self._tokens:
            return self._piece
        self.ended, self.hang_up = True, not self.keep_alive
        reason = None if self.fault == "missing_finish" else "length"
        done = b"" if self.fault == "missing_done" else b"data: [DONE]\n\n"
        usage = {"choices": [], "usage": self.usage()}
        return _chunk(self._event(reason) + _data(usage) + done) + b"0\r\n\r\n"

    def whole(self) -> bytes:
        """The answer to a request that does not stream, as JSON; it comes without delay."""
        text = _WORD * self._tokens
        said = {"message": {"content": text}} if self._chat else {"text": text}
        self.sent = self._tokens
        choices = [{"index": 0, "finish_reason": "length"} | said]
        return json.dumps({"model": "known", "choices": choices, "usage": self.usage()}).encode()

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.sent,
            "total_tokens": self._prompt_tokens + self.sent,
        }

    def _strike(self) -> bytes | None:
        """What is said where the fault strikes; None where the stream goes on as if nothing was."""
        said = {
            "cut": b"",
            "stall": b"",
            "malformed": _chunk(b'data: {"choices": [{"te\n\n'),
            "error_event": _chunk(_data({"error": {"message": "out of memory"}})),
        }.get(self.fault)
        if said is not None:
            self.ended, self.hang_up = True, self.fault != "stall"
        return said

    def _event(self, reason: str | None) -> bytes:
        said: dict[str, Any] = {"delta": {"content": _WORD}} if self._chat else {"text": _WORD}
        choice = {"index": 0, "logprobs": None, "finish_reason": reason} | said
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = {"id": "cmpl-0", "object": kind, "created": 0, "model": "known"}
        return _data(event | {"choices": [choice]})


def prompt_tokens(body: dict[str, Any]) -> int:
    """Words, or token ids, of the request's prompt or messages."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        return len(prompt)
    messages = body.get("messages") or [{"content": prompt}]
    return sum(len(str(message.get("content", "")).split()) for message in messages)


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
