"""One connection to the server: bytes in, a `RequestRecord` out.

An `asyncio.Protocol` rather than an HTTP library: with hundreds of streams on a core, the objects
such libraries make for every chunk delay the next stream's timestamp by more than what is measured.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import httptools
import orjson

from shardwise.bench.reply import Reply
from shardwise.evidence.request import FailureKind, RequestRecord

_DETAIL_BYTES = 300  #: of an error's body that are kept


class Stream(asyncio.Protocol):
    """Sends one request at a time and stamps what comes back."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.record: RequestRecord | None = None  #: in flight
        self.last_receive_s = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def start(self, record: RequestRecord, request: bytes) -> asyncio.Future[None]:
        """Send `request`; the future is done when `record` is complete, failed or not."""
        assert self.transport is not None
        assert self.record is None
        self.record = record
        self._waiter = asyncio.get_running_loop().create_future()
        self._status = 0
        self._body = b""
        self._rest = b""  #: of a line
        self._open_data = b""  #: of an event
        self._error_next = False
        self._reply = Reply(record)
        self._parser = httptools.HttpResponseParser(self)
        self.last_receive_s = record.sent_s = monotonic()
        self.transport.write(request)
        return self._waiter

    def fail(self, kind: FailureKind, detail: str) -> None:
        """End the request in flight as a failure and close: what follows cannot be trusted."""
        if self.record is not None:
            self.record.failure = kind
            self.record.detail = detail[:_DETAIL_BYTES]
            self._end()
        self.close()

    def cancel(self) -> None:
        """End the request in flight because the run is over."""
        if self.record is not None:
            self.record.cancelled = True
            self._end()
        self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.last_receive_s = monotonic()
        if self.record is None or self._parser is None:
            self.close()  # bytes nobody asked for: the next answer could not be told apart
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail("malformed", f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.record is None:
            return
        # a server may end its answer by closing; bytes of an event that it did not end do not count
        if self._reply.saw_done or self._status not in {0, 200}:
            self._complete()
        else:
            self.fail("cut", str(exc) if exc else "connection closed before the end of the stream")

    # --- httptools

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.record is None:
            return
        if self._status != 200:
            self._body = (self._body + body)[:_DETAIL_BYTES]
            return
        lines = (self._rest + body if self._rest else body).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)
            if self.record is None:
                return

    def on_message_complete(self) -> None:
        if self.record is not None:
            self._complete()
        if self._parser is not None and not self._parser.should_keep_alive():
            self.close()

    # --- server-sent events: lines that end in LF or CRLF, an empty one after each event

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data(line[5:])
        elif line in {b"", b"\r"}:
            if self._open_data:
                self.fail("malformed", f"not JSON: {self._open_data[:80]!r}")
        elif line.startswith(b"event:"):
            self._error_next = line[6:].strip() == b"error"
        elif not line.startswith((b":", b"id:", b"retry:")):
            self.fail("malformed", f"not a server-sent event: {line[:80]!r}")

    def _data(self, data: bytes) -> None:
        """Read an event at its first line, or, where that is not yet JSON, with those after it."""
        if self._open_data:
            data = self._open_data + b"\n" + data
        try:
            event: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.strip() == b"[DONE]":
                self._reply.saw_done = True
            else:
                self._open_data = data
            return
        self._open_data = b""
        if not isinstance(event, dict):
            self.fail("malformed", f"an event that is no object: {data[:80]!r}")
        elif self._error_next or event.get("error") or event.get("object") == "error":
            self.fail("error_event", data.decode(errors="replace").strip())
        elif not self._reply.take(event, self.last_receive_s):
            self.fail("malformed", f"an event of another form: {data[:80]!r}")

    # --- the end of a request

    def _complete(self) -> None:
        if self._rest and self._status == 200:  # the last line may lack its end
            rest, self._rest = self._rest, b""
            self._line(rest)
        record = self.record
        if record is None:  # that line was a failure
            return
        if self._open_data:
            self.fail("malformed", f"not JSON: {self._open_data[:80]!r}")
            return
        if self._status != 200:
            hundreds = self._status // 100
            kinds: dict[int, FailureKind] = {4: "http_4xx", 5: "http_5xx"}
            record.failure = kinds.get(hundreds, "http_other")
            record.detail = f"{self._status} {self._body.decode(errors='replace')}"
        else:
            failure = self._reply.judge()
            if failure is not None:
                record.failure, record.detail = failure
        self._end()

    def _end(self) -> None:
        assert self.record is not None
        assert self._waiter is not None
        self.record.done_s = monotonic()
        self.record = None
        if not self._waiter.done():
            self._waiter.set_result(None)
