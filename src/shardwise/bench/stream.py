"""One connection to the server: turns bytes into a `RequestRecord`.

It is an `asyncio.Protocol` and uses no HTTP library. With hundreds of streams on a core, the
objects that such libraries create per chunk would delay timestamps by more than the measured times.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

import httptools
import orjson

from shardwise.bench.http import HTTP2_ONLY, REDIRECTS, is_http2
from shardwise.bench.lines import LineReader
from shardwise.bench.reply import Reply
from shardwise.evidence.request import FailureKind, RequestRecord

_DETAIL_BYTES: Final = 300  #: bytes kept of the body of an error
_NOTED: Final = (b"content-encoding", b"location", b"retry-after")  #: headers that are used


class Stream(asyncio.Protocol):
    """Sends one request at a time and timestamps the answer.

    `exact`: an answer with fewer tokens than requested is a failure.
    """

    def __init__(self, *, exact: bool = True) -> None:
        self.transport: asyncio.Transport | None = None
        self.record: RequestRecord | None = None  #: the request in flight
        self.last_receive_s = 0.0
        self.last_event_s = 0.0  #: of the request in flight; comments do not count
        self._exact = exact
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None

    @property
    def usable(self) -> bool:
        """Whether the connection can take another request."""
        return self.transport is not None and not self.transport.is_closing()

    def start(self, record: RequestRecord, request: bytes) -> asyncio.Future[None]:
        """Send `request`. The future completes when `record` is complete, also after a failure."""
        assert self.transport is not None
        assert self.record is None
        self.record = record
        self._waiter = asyncio.get_running_loop().create_future()
        self._status = 0
        self._headers: dict[bytes, str] = {}
        self._body = b""
        self._lines = LineReader()
        self._strange = b""  #: the first line that is not a field of an event
        self._open_data = b""  #: data lines of an event
        self._error_next = False
        self._reply = Reply(record, exact=self._exact)
        self._parser = httptools.HttpResponseParser(self)
        self.last_receive_s = self.last_event_s = record.sent_s = monotonic()
        self.transport.write(request)
        return self._waiter

    def fail(self, kind: FailureKind, detail: str) -> None:
        """Fail the request in flight and close the connection: further data is unreliable."""
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
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio callback: the connection is open."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """asyncio callback: note the time, then parse the bytes."""
        self.last_receive_s = monotonic()
        if self.record is None or self._parser is None:
            self.close()  # unrequested bytes, which would be mistaken for the next answer
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("http_other", f"{self._status}: the server switches to another protocol")
        except httptools.HttpParserError as error:
            http2 = not self._status and is_http2(data)
            self.fail("malformed", HTTP2_ONLY if http2 else f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio callback: complete or fail the request in flight."""
        self.transport = None
        if self.record is None:
            return
        # a server may end its answer by closing; an incomplete event does not count
        if self._reply.saw_done or self._status not in {0, 200}:
            self._complete()
        else:
            self.fail("cut", str(exc) if exc else "connection closed before the end of the stream")

    # --- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser callback: store the headers that are used later."""
        name = name.lower()
        if name in _NOTED and not self._status:  # headers, not trailers
            self._headers[name] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Parser callback: note the status; skip interim answers."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200 and status != 101:  # an interim answer; the final one follows
            self._headers.clear()
            return
        self._status = status
        coding = self._headers.get(b"content-encoding", "identity").strip().lower()
        if status == 200 and coding != "identity":
            self.fail("malformed", f"the body is compressed ({coding}), but identity was requested")

    def on_body(self, body: bytes) -> None:
        """Parser callback: forward events, or store the start of an error."""
        if self.record is None:
            return
        if self._status != 200:
            self._body = (self._body + body)[:_DETAIL_BYTES]
            return
        try:
            lines = self._lines.feed(body)
        except ValueError as error:
            self.fail("malformed", str(error))
            return
        for line in lines:
            self._line(line)
            if self.record is None:
                return

    def on_message_complete(self) -> None:
        """Parser callback: the answer is complete."""
        if not self._status:  # an interim answer
            return
        if self.record is not None:
            self._complete()
        if self._parser is not None and not self._parser.should_keep_alive():
            self.close()

    # --- server-sent events: each ends with an empty line; unknown fields are skipped

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data(line[5:])
        elif not line:
            self._error_next = False
            if self._open_data:
                self.fail("malformed", f"not JSON: {self._open_data[:80]!r}")
        elif line.startswith(b"event:"):
            self._error_next = line[6:].strip() == b"error"
        elif not self._strange and not line.startswith((b":", b"id:", b"retry:")):
            self._strange = line[:80]

    def _data(self, data: bytes) -> None:
        """Parse an event at its first line, or if that is not complete JSON, with later lines."""
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
        self.last_event_s = self.last_receive_s
        if not isinstance(event, dict):
            self.fail("malformed", f"an event that is not an object: {data[:80]!r}")
        elif self._error_next or event.get("error") or event.get("object") == "error":
            self.fail("error_event", data.decode(errors="replace").strip())
        elif not self._reply.take(event, self.last_receive_s):
            self.fail("malformed", f"an event of unknown form: {data[:80]!r}")

    # --- the end of a request

    def _complete(self) -> None:
        if self._status == 200:
            self._line(self._lines.last())  # the last line may have no line end
        record = self.record
        if record is None:  # that line failed the request
            return
        if self._open_data:
            self.fail("malformed", f"not JSON: {self._open_data[:80]!r}")
            return
        if self._status != 200:
            hundreds = self._status // 100
            kinds: dict[int, FailureKind] = {4: "http_4xx", 5: "http_5xx"}
            record.failure = kinds.get(hundreds, "http_other")
            record.detail = self._refusal()[:_DETAIL_BYTES]
        elif self._strange and not self._reply.took_any:
            record.failure = "malformed"
            record.detail = f"not a server-sent event: {self._strange!r}"
        else:
            failure = self._reply.judge()
            if failure is not None:
                record.failure, record.detail = failure
        self._end()

    def _refusal(self) -> str:
        """Return status and body of an answer other than 200, with its redirect and Retry-After."""
        said = f"{self._status} {self._body.decode(errors='replace')}"
        if self._status in REDIRECTS and b"location" in self._headers:
            said = f"{self._status} redirects to {self._headers[b'location']}"
        again = self._headers.get(b"retry-after")
        return f"Retry-After: {again}; {said}" if again else said

    def _end(self) -> None:
        assert self.record is not None
        assert self._waiter is not None
        self.record.done_s = monotonic()
        self.record = None
        if not self._waiter.done():
            self._waiter.set_result(None)
