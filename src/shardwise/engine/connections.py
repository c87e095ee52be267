"""Limits on clients: size of a body, and time to send a request."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request as HttpRequest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shardwise.errors import InputError

REQUEST_TIMEOUT_S: Final = 30.0  #: from a request's first to its last byte; equal to HAProxy's
#: a token is 4 to 5 characters, and a character in JSON is at most 12 bytes (a surrogate pair)
BODY_BYTES_PER_TOKEN: Final = 64
LEAST_BODY_LIMIT: Final = 1 << 20
_TIMED_OUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class BodyTooLargeError(InputError):
    """The body is larger than any request that fits the context. Answered with 413."""


def body_limit(max_model_len: int) -> int:
    """Return the largest accepted body in bytes, for the maximum tokens of a request."""
    return max(LEAST_BODY_LIMIT, BODY_BYTES_PER_TOKEN * max_model_len)


async def read_body(http: HttpRequest, limit: int) -> bytes:
    """Read the body. Raises BodyTooLargeError as soon as it exceeds `limit` bytes."""
    declared = http.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError("the request's body is too large", f"allowed: {limit} bytes")


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline for receiving each request.

    Without it, a client that sends half a request would keep its connection and memory forever.
    """

    timeout_s = REQUEST_TIMEOUT_S
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """uvicorn callback: start the time limit of the first request."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn callback: end the time limit."""
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Parser callback: start the time limit of this request."""
        super().on_message_begin()
        self._arm()

    def on_message_complete(self) -> None:
        """Parser callback: the request is complete; end its time limit."""
        super().on_message_complete()
        self._disarm()

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self.timeout_s, self._late)

    def _disarm(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if self.pipeline:  # reading is paused until the previous answer is complete
            self._arm()
            return
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(_TIMED_OUT)
        self.transport.close()
