"""One connection to the server with known delays: receives requests, schedules answers."""

from __future__ import annotations

import json
import selectors
import socket
from time import monotonic
from typing import Any, Protocol

import httptools

from shardwise.bench.known_answer import Answer, Behaviour
from shardwise.bench.known_modes import HTTP2_PREFACE, REFUSALS


class Scheduler(Protocol):
    """The interface of the server that a connection uses."""

    behaviour: Behaviour

    def number_of_next(self) -> int:
        """Return the number of the newest streamed request, counted from 1."""

    def schedule(self, when_s: float, connection: Connection, answer: Answer) -> None:
        """Send the next token of `answer` at `when_s` of CLOCK_MONOTONIC."""

    def account(self) -> dict[str, float]:
        """Return how late tokens were sent since the last call."""


class Connection:
    """One client's connection. Receives requests and schedules answers."""

    def __init__(
        self, server: Scheduler, sock: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        self.closed = False
        self._server = server
        self._socket = sock
        self._selector = selector
        self._unsent = bytearray()
        self._parser = httptools.HttpRequestParser(self)
        self._path = self._body = b""

    def write(self, data: bytes) -> None:
        """Send `data`, or queue it behind unsent bytes."""
        if self.closed:
            return
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data) and not self.closed:  # the client reads slower than tokens are sent
            self._unsent += data[sent:]
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._socket, both, self)

    def flush(self) -> None:
        """Send queued bytes."""
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent and not self.closed:
            self._selector.modify(self._socket, selectors.EVENT_READ, self)

    def _send(self, data: bytes | bytearray) -> int:
        """Send bytes; return how many were sent."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0

    def close(self) -> None:
        """Close the socket and stop watching it."""
        if not self.closed:
            self.closed = True
            self._selector.unregister(self._socket)
            self._socket.close()

    def receive(self) -> None:
        """Read and parse the received bytes."""
        try:
            data = self._socket.recv(1 << 16)
            if not data:
                self.close()
                return
            if self._server.behaviour.mode == "http2":
                self.write(HTTP2_PREFACE)
                self.close()
                return
            self._parser.feed_data(data)
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            self.close()

    # --- httptools

    def on_url(self, url: bytes) -> None:
        """Parser callback: a request begins."""
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        """Parser callback: part of a request's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Parser callback: the request is complete; schedule its answer."""
        received_s = monotonic()
        query = self._server.behaviour.query.encode()
        if query and self._path.partition(b"?")[2] != query:
            self._reply(b"404 Not Found", {"error": {"message": "the query is not as it was"}})
            return
        if self._parser.get_method() != b"POST":
            self._answer_get()
            return
        server = self._server
        try:
            body = json.loads(self._body)
            streamed = bool(body.get("stream"))
            answer = Answer(server.behaviour, body, server.number_of_next() if streamed else 1)
        except (ValueError, TypeError, AttributeError) as error:
            self._reply(b"400 Bad Request", {"error": {"message": str(error)}})
            return
        if answer.mode in REFUSALS:
            status, headers = REFUSALS[answer.mode]
            self._reply(status, {"error": {"message": "not now"}}, headers)
        elif not streamed:
            self._reply(b"200 OK", answer.whole())
        else:
            self.write(answer.head())
            server.schedule(received_s + server.behaviour.ttft_s, self, answer)

    def _answer_get(self) -> None:
        if self._path.startswith(b"/v1/models"):
            self._reply(b"200 OK", {"object": "list", "data": [{"id": "known"}]})
        elif self._path.startswith(b"/health"):
            self._reply(b"200 OK", {})
        elif self._path.startswith(b"/lateness"):
            self._reply(b"200 OK", self._server.account())
        else:
            self._reply(b"404 Not Found", {"error": {"message": "no such path"}})

    def _reply(self, status: bytes, body: dict[str, Any] | bytes, headers: bytes = b"") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
        self.write(head % (status, headers, len(data)) + data)
