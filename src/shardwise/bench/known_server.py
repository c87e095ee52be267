"""A server with known delays and faults, for checking the client.

It answers the OpenAI API with as many words as asked for: the first `ttft_s` after the request,
each next one `itl_s` later, due times counted from the request so that lateness does not add up.
It sends each token by a call of its own and notes how late that was. No event loop stands between
the clock and the socket, since those round to a millisecond.
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

_IDLE_S = 0.2  #: how soon `stop` is noticed


class Lateness(msgspec.Struct):
    """How late tokens left, against when they were due: sums in seconds, and counts."""

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
    """The URL of a server in a thread; a process of its own would take longer to start."""
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
    """Listens on 127.0.0.1; `serve` answers until `stop`, which any thread may call."""

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
        """Start to listen; returns the port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener
        return int(listener.getsockname()[1])

    def stop_listening(self) -> None:
        """Refuse new connections from now on; open ones stay."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def stop(self) -> None:
        """End `serve` within its next wait."""
        self._stopped = True

    def serve(self) -> None:
        """Accept requests and send tokens when they are due, until `stop`."""
        while not self._stopped:
            wait_s = min(self._due[0][0] - monotonic(), _IDLE_S) if self._due else _IDLE_S
            if wait_s > 0:  # select takes microseconds, where epoll takes milliseconds
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
        """The number of the streamed request that just came, the first being 1."""
        self.requests += 1
        return self.requests

    def account(self) -> dict[str, float]:
        """How late tokens left since this was last asked."""
        told, self.lateness = asdict(self.lateness), Lateness()
        return told

    def schedule(self, when_s: float, connection: Connection, answer: Answer) -> None:
        """Send the next token of `answer` at `when_s` of CLOCK_MONOTONIC."""
        heapq.heappush(self._due, (when_s, next(self._order), connection, answer))

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:  # closed meanwhile
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
    """`python -m shardwise.bench.known_server PORT TTFT_S ITL_S [MODE EVERY [QUERY]]`: prints its
    port."""
    port, ttft_s, itl_s = int(arguments[0]), float(arguments[1]), float(arguments[2])
    mode: Any = arguments[3] if len(arguments) > 3 else ""
    every = int(arguments[4]) if len(arguments) > 4 else 4
    query = arguments[5] if len(arguments) > 5 else ""
    server = KnownServer(Behaviour(ttft_s, itl_s, mode, every, query=query))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file for each stream
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    sys.stdout.write(f"{server.listen(port)}\n")
    sys.stdout.flush()
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
