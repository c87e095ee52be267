"""One generation request, and its output for the client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shardwise.engine import protocol
from shardwise.engine.engine_process import EngineInfo
from shardwise.engine.server_metrics import ServerMetrics
from shardwise.engine.service import EngineClient, EngineDownError
from shardwise.engine.tokenizer import AnyTokenizer
from shardwise.errors import InputError, ShardwiseError

T = TypeVar("T")
Piece = tuple[str, str | None]  #: text for the client, and the finish reason


#: bodies up to this size are parsed and tokenized on the event loop, in less than a millisecond
INLINE_BODY_BYTES = 16 << 10


class ClientGoneError(Exception):
    """The client closed its connection before the answer."""


class UnknownModelError(InputError):
    """The request is for a model that is not served. Answered with 404."""


class Host(Protocol):
    """The interface of the server that a generation uses."""

    client: EngineClient
    metrics: ServerMetrics
    tokenizer: AnyTokenizer
    info: EngineInfo
    model_name: str


class Generation:
    """One request in the engine. Raises InputError for a value out of range."""

    def __init__(self, server: Host, request: protocol.AnyRequest, prompt: list[int]) -> None:
        params = request.sampling(request.limit(len(prompt), server.info.max_model_len))
        self._request, self._num_prompt, self._num_output = request, len(prompt), 0
        self._client = server.client
        self._id = uuid.uuid4().hex
        chat = isinstance(request, protocol.ChatRequest)
        self._reply = protocol.Reply(self._id, server.model_name, chat)
        self._text = server.tokenizer.stream()
        self._stop = protocol.StopWatcher(request.stop_strings)
        self._timer = server.metrics.timer(len(prompt))
        self._released = False
        self._outcome = "cancelled"
        self._queue = self._client.submit(self._id, prompt, params)

    async def next(self) -> Piece:
        """Add a token; return the new text for the client, and the finish reason."""
        item = await self._queue.get()
        if isinstance(item, ShardwiseError):
            self._outcome = "failed"
            raise item
        self._num_output += 1
        self._timer.token()
        reason: str | None = item.finish_reason
        piece = "" if reason == "stop" else self._text.add(item.token)
        piece = self._stop.add(piece, last=reason is not None)
        if reason:
            self._outcome = "finished"
        return piece, "stop" if self._stop.stopped else reason

    async def events(self, first: Piece) -> AsyncIterator[bytes]:
        """Yield the server-sent events of the answer."""
        piece, reason = first
        opening = True
        try:
            while True:
                if piece or reason or opening:
                    yield event(self._reply.chunk(piece, reason, opening))
                    opening = False
                if reason:
                    break
                piece, reason = await self.next()
        except EngineDownError as e:
            yield event(error_body(503, str(e)))
            raise  # closes the connection, so that the answer is not taken for complete
        options = self._request.stream_options
        if options and options.include_usage:
            yield event(self._reply.usage_chunk(self._usage()))
        yield b"data: [DONE]\n\n"

    async def whole(self, first: Piece) -> dict[str, object]:
        """Return the complete answer."""
        piece, reason = first
        pieces = [piece]
        while not reason:
            piece, reason = await self.next()
            pieces.append(piece)
        return self._reply.whole("".join(pieces), reason, self._usage())

    @property
    def wants_stream(self) -> bool:
        """Whether the client asked for server-sent events."""
        return bool(self._request.stream)

    def _usage(self) -> dict[str, int]:
        return protocol.usage(self._num_prompt, self._num_output)

    def release(self) -> None:
        """Release the request in the engine, after the answer or if the client has disconnected."""
        if self._released:
            return
        self._released = True
        in_engine = self._outcome == "cancelled"
        if self._stop.stopped:
            self._outcome = "finished"
        self._client.release(self._id, finished=not in_engine)
        self._timer.ended(self._outcome)


async def understand(
    server: Host, body: bytes, chat: bool
) -> tuple[protocol.AnyRequest, list[int]]:
    """Return the request in `body` and the tokens of its prompt. Raises InputError.

    A large body is processed in a thread, so that /health and other streams are not delayed.
    """
    if len(body) <= INLINE_BODY_BYTES:
        return _understand(server, body, chat)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _understand, server, body, chat)


def _understand(server: Host, body: bytes, chat: bool) -> tuple[protocol.AnyRequest, list[int]]:
    request = protocol.parse(body, chat)
    if request.model and request.model != server.model_name:
        raise UnknownModelError(
            f"no model {request.model[:80]!r} is served here", f"allowed: {server.model_name}"
        )
    prompt = request.tokens(server.tokenizer)
    protocol.check_length(len(prompt), server.info.max_model_len)
    return request, prompt


class EventStream:
    """Streams a generation, and releases it even if the client leaves before the first event."""

    def __init__(self, generation: Generation, first: Piece) -> None:
        events = generation.events(first)
        self._response = StreamingResponse(events, media_type="text/event-stream")
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and always release the request at the end."""
        try:
            await self._response(scope, receive, send)
        finally:
            self._generation.release()


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. If the client leaves, cancel it and raise ClientGoneError."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def event(value: object) -> bytes:
    """Return a server-sent event with `value` as JSON."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def error_body(status: int, message: str) -> dict[str, object]:
    """Return the body of an error in OpenAI's format."""
    kind = "server_error"
    if 400 <= status < 500:
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": status}}
