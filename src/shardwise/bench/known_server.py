"""A server with known delays and faults, for checking the client.

It answers the OpenAI API with the requested number of words: the first `ttft_s` after the request,
the others `itl_s` apart. Due times are relative to the request, so delays do not accumulate. Each
token is sent by a separate call, and its delay is recorded. The server uses no event loop, because
the timers of event loops round to a millisecond.
"""

from __future__ import annotations

import heapq
import resource
import select
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from time import monotonic
from typing import Any

import msgspec
from msgspec.structs import asdict

from shardwise.bench.known_answer import Answer, Behaviour
from shardwise.bench.known_connection import Connection

_IDLE_S = 0.2  #: maximum delay until `stop` takes effect


class Lateness(msgspec.Struct):
    """Delays between due time and sending of tokens: sums in seconds, and counts."""

    tokens: int = 0
    sum_s: float = 0.0
    first_tokens: int = 0
    first_sum_s: float = 0.0
    last_tokens: int = 0
    last_sum_s: float = 0.0
    worst_s: float = 0.0

    def add(self, late_s: float, *, first: bool, last: bool) -> None:
        """Count one token that was sent `late_s` seconds after it was due."""
        self.tokens += 1
        self.sum_s += late_s
        if first:
            self.first_tokens += 1
            self.first_sum_s += late_s
        if last:
            self.last_tokens += 1
            self.last_sum_s += late_s
        self.worst_s = max(self.worst_s, late_s)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Run a server in a thread and yield its URL. A separate process would start more slowly."""
    server = KnownServer(behaviour)
    port = server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
        thread.join(10)


class KnownServer:
    """Server on 127.0.0.1. `serve` answers until `stop`, which any thread may call."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests = 0
        self.lateness = Lateness()
        self._due: list[tuple[float, int, Connection, Answer]] = []
        self._order = count()
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._stopped = False

    def listen(self, port: int = 0) -> int:
        """Start listening; return the port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener
        return int(listener.getsockname()[1])

    def stop_listening(self) -> None:
        """Refuse new connections; open ones stay."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def stop(self) -> None:
        """Make `serve` return after its current wait."""
        self._stopped = True

    def serve(self) -> None:
        """Accept requests and send tokens when they are due, until `stop`."""
        while not self._stopped:
            wait_s = min(self._due[0][0] - monotonic(), _IDLE_S) if self._due else _IDLE_S
            if wait_s > 0:  # select's timeout is in microseconds, epoll's in milliseconds
                select.select([self._selector], [], [], wait_s)
            for key, events in self._selector.select(0):
                if key.data is None:
                    self._accept()
                elif events & selectors.EVENT_WRITE:
                    key.data.flush()
                else:
                    key.data.receive()
            self._send_due()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def number_of_next(self) -> int:
        """Return the number of the newest streamed request, counted from 1."""
        self.requests += 1
        return self.requests

    def account(self) -> dict[str, float]:
        """Return how late tokens were sent since the last call."""
        told, self.lateness = asdict(self.lateness), Lateness()
        return told

    def schedule(self, when_s: float, connection: Connection, answer: Answer) -> None:
        """Send the next token of `answer` at `when_s` of CLOCK_MONOTONIC."""
        heapq.heappush(self._due, (when_s, next(self._order), connection, answer))

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:  # closed in the meantime
            return
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, accepted, self._selector)
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _send_due(self) -> None:
        due, itl_s = self._due, self.behaviour.itl_s
        while due and due[0][0] <= monotonic():
            when_s, order, connection, answer = due[0]
            connection.write(answer.step())
            late_s = monotonic() - when_s
            ended = answer.ended or connection.closed
            if answer.sent:
                self.lateness.add(late_s, first=answer.sent == 1, last=ended)
            if ended:
                heapq.heappop(due)
                if answer.hang_up:
                    connection.close()
            else:
                heapq.heapreplace(due, (when_s + itl_s, order, connection, answer))


def main(arguments: list[str]) -> None:
    """Run `python -m shardwise.bench.known_server PORT TTFT_S ITL_S [MODE EVERY [QUERY]]`.

    Prints the port.
    """
    port, ttft_s, itl_s = int(arguments[0]), float(arguments[1]), float(arguments[2])
    mode: Any = arguments[3] if len(arguments) > 3 else ""
    every = int(arguments[4]) if len(arguments) > 4 else 4
    query = arguments[5] if len(arguments) > 5 else ""
    server = KnownServer(Behaviour(ttft_s, itl_s, mode, every, query=query))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one open file per stream
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    sys.stdout.write(f"{server.listen(port)}\n")
    sys.stdout.flush()
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
