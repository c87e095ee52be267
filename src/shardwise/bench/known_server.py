"""A server of known delays, and of known faults: what the client is checked against.

It answers the OpenAI API with `osl` words: the first `ttft_s` after the request, each next one
`itl_s` later, due times counted from the request so that lateness does not add up. The words of a
prompt, or its token ids, are its tokens.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import signal
import sys
from dataclasses import asdict, dataclass
from itertools import count
from time import monotonic
from typing import Any, Final, Literal, get_args

import httptools

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
FAULTS: Final[tuple[str, ...]] = get_args(Fault)

_HEAD: Final = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n"
_SPIN_S: Final = 0.0015  #: event loops time to the millisecond; the rest is waited for awake


@dataclass(frozen=True)
class Behaviour:
    """`fault` strikes every `every`-th request, the first being number 1; "" for none."""

    ttft_s: float = 0.05
    itl_s: float = 0.01
    fault: Fault | Literal[""] = ""
    every: int = 4
    keep_alive: bool = True


@dataclass
class Lateness:
    """How late tokens left, against when they were due: sums in seconds, and counts."""

    tokens: int = 0
    sum_s: float = 0.0
    first_tokens: int = 0
    first_sum_s: float = 0.0

    def add(self, late_s: float, *, first: bool) -> None:
        self.tokens += 1
        self.sum_s += late_s
        if first:
            self.first_tokens += 1
            self.first_sum_s += late_s


class KnownServer:
    """Listens on 127.0.0.1 in the running event loop."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests = 0
        self.lateness = Lateness()
        self._due: list[tuple[float, int, _Answer]] = []
        self._order = count()
        self._awake = False
        self._server: asyncio.Server | None = None

    async def listen(self, port: int = 0) -> int:
        """Start to listen; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", port, backlog=4096
        )
        port = int(self._server.sockets[0].getsockname()[1])
        return port

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    def at(self, when_s: float, answer: _Answer) -> None:
        """Call `answer.step()` at `when_s` of CLOCK_MONOTONIC."""
        heapq.heappush(self._due, (when_s, next(self._order), answer))
        if not self._awake or self._due[0][0] == when_s:
            self._awake = True
            self._sleep()

    def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._due[0][0] - monotonic() - _SPIN_S
        if wait_s > 0:
            loop.call_later(wait_s, self._wake)
        else:
            loop.call_soon(self._wake)

    def _wake(self) -> None:
        due = self._due
        while due and due[0][0] <= monotonic():
            when_s, _, answer = heapq.heappop(due)
            next_s = answer.step(when_s)
            # the stock event loop sends within write(), so this is when the token left
            self.lateness.add(monotonic() - when_s, first=answer.sent == 1)
            if next_s:
                heapq.heappush(due, (next_s, next(self._order), answer))
        self._awake = bool(due)
        if due:
            self._sleep()


class _Answer:
    """One streamed answer."""

    def __init__(
        self, server: KnownServer, transport: asyncio.Transport, body: dict[str, Any], number: int
    ) -> None:
        behaviour = server.behaviour
        struck = behaviour.fault != "" and number % behaviour.every == 0
        self.fault = behaviour.fault if struck else ""
        self.transport = transport
        self.itl_s = behaviour.itl_s
        self.keep_alive = behaviour.keep_alive
        self.chat = "messages" in body
        self.left = self.asked = int(body.get("max_tokens") or 16)
        if self.fault == "short":
            self.left = max(self.asked - 1, 1)
        self.halfway = self.left // 2 + 1
        self.sent = 0
        self.prompt_tokens = _prompt_tokens(body)
        self.piece = _chunk(self._event({"content": " x"} if self.chat else " x", None))

    def step(self, when_s: float) -> float:
        """Send the next token; returns when the one after it is due, 0 for none."""
        if self.transport.is_closing():
            return 0.0
        if self.fault and self.sent == self.halfway - 1 and self._strike():
            return 0.0
        self.sent += 1
        self.left -= 1
        if self.left:
            self.transport.write(self.piece)
            return when_s + self.itl_s
        self._finish()
        return 0.0

    def _strike(self) -> bool:
        """Do what the fault is; True where the answer ends with it."""
        if self.fault == "cut":
            self.transport.close()
        elif self.fault == "malformed":
            self.transport.write(_chunk(b'data: {"choices": [{"te\n\n'))
        elif self.fault == "error_event":
            self.transport.write(_chunk(b'data: {"error": {"message": "out of memory"}}\n\n'))
        else:
            return self.fault == "stall"  # and the connection stays open
        return True

    def _finish(self) -> None:
        reason = None if self.fault == "missing_finish" else "length"
        last = self._event({"content": " x"} if self.chat else " x", reason)
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.sent,
            "total_tokens": self.prompt_tokens + self.sent,
        }
        last += b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        if self.fault != "missing_done":
            last += b"data: [DONE]\n\n"
        self.transport.write(_chunk(last) + b"0\r\n\r\n")
        if not self.keep_alive:
            self.transport.close()

    def _event(self, piece: Any, reason: str | None) -> bytes:
        choice = {"index": 0, "delta" if self.chat else "text": piece, "finish_reason": reason}
        event = {"id": "cmpl-0", "object": "text_completion", "model": "known", "choices": [choice]}
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _prompt_tokens(body: dict[str, Any]) -> int:
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        return len(prompt)
    messages = body.get("messages") or [{"content": prompt}]
    return sum(len(str(message.get("content", "")).split()) for message in messages)


class _Connection(asyncio.Protocol):
    """One client's connection: requests in, answers scheduled."""

    def __init__(self, server: KnownServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._path = self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        received_s = monotonic()
        if self._parser.get_method() != b"POST":
            self._reply_now()
            return
        server = self._server
        server.requests += 1
        try:
            body = json.loads(self._body)
            answer = _Answer(server, self._transport, body, server.requests)
        except (ValueError, TypeError, AttributeError) as error:
            self._reply(b"400 Bad Request", {"error": {"message": str(error)}})
            return
        if answer.fault == "http_4xx":
            self._reply(b"429 Too Many Requests", {"error": {"message": "busy"}})
        elif answer.fault == "http_5xx":
            self._reply(b"500 Internal Server Error", {"error": {"message": "broken"}})
        else:
            close = b"" if answer.keep_alive else b"Connection: close\r\n"
            self._transport.write(_HEAD % (b"200 OK", b"text/event-stream", close))
            server.at(received_s + server.behaviour.ttft_s, answer)

    def _reply_now(self) -> None:
        if self._path.startswith(b"/v1/models"):
            self._reply(b"200 OK", {"object": "list", "data": [{"id": "known"}]})
        elif self._path.startswith(b"/health"):
            self._reply(b"200 OK", {})
        elif self._path.startswith(b"/lateness"):
            self._reply(b"200 OK", asdict(self._server.lateness))
            self._server.lateness = Lateness()
        else:
            self._reply(b"404 Not Found", {"error": {"message": "no such path"}})

    def _reply(self, status: bytes, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(data)) + data)


async def _serve(behaviour: Behaviour, port: int) -> None:
    server = KnownServer(behaviour)
    print(await server.listen(port), flush=True)  # noqa: T201 - whoever started it reads the port
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def main(arguments: list[str]) -> None:
    """`python -m shardwise.bench.known_server PORT TTFT_S ITL_S [FAULT EVERY]`."""
    port, ttft_s, itl_s = int(arguments[0]), float(arguments[1]), float(arguments[2])
    fault: Any = arguments[3] if len(arguments) > 3 else ""
    behaviour = Behaviour(ttft_s, itl_s, fault, int(arguments[4]) if fault else 4)
    asyncio.run(_serve(behaviour, port))


if __name__ == "__main__":
    main(sys.argv[1:])
