"""The OpenAI API over one engine: Starlette on uvicorn."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from shardwise.engine import tokenizer as tokenizers
from shardwise.engine.connections import (
    BodyTooLargeError,
    TimedProtocol,
    body_limit,
    read_body,
)
from shardwise.engine.engine_process import EngineInfo
from shardwise.engine.generation import (
    ClientGoneError,
    EventStream,
    Generation,
    UnknownModelError,
    error_body,
    understand,
    unless_gone,
)
from shardwise.engine.options import EngineOptions
from shardwise.engine.server_metrics import ServerMetrics
from shardwise.engine.service import EngineClient, EngineDownError
from shardwise.errors import InputError

SHUTDOWN_TIMEOUT_S = 30
log = logging.getLogger("shardwise.serve")


Answer: TypeAlias = Response | EventStream


class ServerOptions(msgspec.Struct, frozen=True):
    """Address, model name, and queue limit of a server."""

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = ""  #: model name for clients; empty: the last part of the path
    max_queue: int = 256  #: queued requests beyond max_num_seqs; more are answered with 429
    step_timeout_s: float = 30.0  #: /health fails after it; the replica exits after twice that


class Server:
    """Handlers of one replica."""

    def __init__(self, path: Path, engine: EngineOptions, options: ServerOptions) -> None:
        self._path, self._engine_options, self._options = path, engine, options
        self.model_name = options.model_name or path.stem
        self.capacity = engine.max_num_seqs + options.max_queue
        self.exit_code = 0
        self.started = False
        self.client = EngineClient(self._engine_down)
        self.metrics = ServerMetrics(self.client)

    async def run(self, listener: socket.socket) -> int:
        """Serve until stopped, or until the engine dies; return the exit code."""
        self.tokenizer = tokenizers.load(self._path)
        self.info: EngineInfo = await self.client.start(self._path, self._engine_options)
        self.metrics.kv_blocks = self.info.kv_blocks
        app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/metrics", self.show_metrics),
                Route("/v1/models", self.models),
                Route("/v1/models/{model:path}", self.one_model),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error, ClientDisconnect: _client_left},
        )
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
        self._uvicorn = uvicorn.Server(config)
        log.info(
            "serving %s on http://%s:%d (tp_size %d, %s, %s, ranks %s)",
            self.model_name,
            self._options.host,
            listener.getsockname()[1],
            self._engine_options.tp_size,
            self.info.dtype,
            self.info.device,
            self.info.pids,
        )
        self.started = True
        watch = asyncio.create_task(self._watch_steps())
        try:
            await self._uvicorn.serve(sockets=[listener])
        finally:
            watch.cancel()
            self.client.stop()
        return self.exit_code

    def _engine_down(self, why: str) -> None:
        log.error("replica down: %s", why)
        self.exit_code = 1
        logging.getLogger("uvicorn.error").disabled = True  # streams are closed on purpose below
        self._uvicorn.should_exit = True
        asyncio.get_running_loop().call_later(1.0, self._leave)

    def _leave(self) -> None:
        self._uvicorn.force_exit = True  # a client does not read its answer

    async def _watch_steps(self) -> None:
        """Stop the replica if the engine has work but completes no step."""
        late = False
        while not self.client.down:
            await asyncio.sleep(min(1.0, self._options.step_timeout_s / 4))
            if self._stalled and not late:
                log.error("/health fails: %s", self._stalled)
            late = bool(self._stalled)
            if self.client.stalled_s > 2 * self._options.step_timeout_s:
                self.client.fail(f"the engine hangs: {self._stalled}")

    @property
    def _stalled(self) -> str:
        """Return a description if a step is late; else empty."""
        seconds = self.client.stalled_s
        if seconds <= self._options.step_timeout_s:
            return ""
        return (
            f"{self.client.in_flight} requests are in flight and no step ended for {seconds:.1f} s"
        )

    async def health(self, _: HttpRequest) -> Response:
        """Answer `GET /health`: 200, or 503 with the reason."""
        why = self.client.down or self._stalled
        return _error(503, why) if why else Response()

    async def show_metrics(self, _: HttpRequest) -> Response:
        """Answer `GET /metrics` with Prometheus text."""
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4")

    async def models(self, _: HttpRequest) -> Response:
        """Answer `GET /v1/models` with the served model."""
        return _json({"object": "list", "data": [self._model()]})

    async def one_model(self, http: HttpRequest) -> Response:
        """Answer `GET /v1/models/NAME` with that model, or 404."""
        asked = http.path_params["model"]
        if asked != self.model_name:
            return _error(
                404, f"no model {asked[:80]!r} is served here; allowed: {self.model_name}"
            )
        return _json(self._model())

    def _model(self) -> dict[str, object]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": 0,
            "owned_by": "shardwise",
            "max_model_len": self.info.max_model_len,
        }

    async def completions(self, http: HttpRequest) -> Answer:
        """`POST /v1/completions`."""
        return await self._answer(http, chat=False)

    async def chat(self, http: HttpRequest) -> Answer:
        """`POST /v1/chat/completions`."""
        return await self._answer(http, chat=True)

    async def _answer(self, http: HttpRequest, chat: bool) -> Answer:
        if self.client.in_flight >= self.capacity:
            self.metrics.refused()
            return _error(429, f"{self.capacity} requests are in flight, none more is queued")
        generation = None
        try:
            body = await read_body(http, body_limit(self.info.max_model_len))
            generation = Generation(self, *await understand(self, body, chat))
            # wait for the first token, so that a refused request gets a status instead of a stream
            first = await unless_gone(http, generation.next())
            if generation.wants_stream:
                response = EventStream(generation, first)
                generation = None  # the stream releases it
                return response
            return _json(await unless_gone(http, generation.whole(first)))
        except (InputError, EngineDownError) as e:
            return _error(next(code for kind, code in _STATUSES if isinstance(e, kind)), str(e))
        except ClientGoneError:
            return Response(status_code=499)  # nginx's code for a closed connection
        finally:
            if generation:
                generation.release()


#: the first that fits
_STATUSES: Final = (
    (BodyTooLargeError, 413),
    (UnknownModelError, 404),
    (InputError, 400),
    (EngineDownError, 503),
)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    response = _json(error_body(status, message), status)
    if status == 429:
        response.headers["Retry-After"] = "1"
    return response


async def _http_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _client_left(_: HttpRequest, __: Exception) -> Response:
    return Response(status_code=499)  # nginx's code for a closed connection


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises InputError if the address is unavailable."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as e:  # not a valid DNS name
        taken = isinstance(e, OSError) and e.errno == errno.EADDRINUSE
        why = "is in use" if taken else f"cannot be used: {e}"
        raise InputError(f"port {port} on {host} {why}", remedy="choose another --port") from None
    return listener


def serve(path: Path, engine: EngineOptions, options: ServerOptions) -> int:
    """Run one replica in the foreground until SIGTERM or SIGINT; return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    listener = listen(options.host, options.port)
    server = Server(path, engine, options)

    def stop(signum: int, _: object) -> None:
        # uvicorn has its own handlers while it serves, and raises the signal again at the end
        if not server.started:
            os._exit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server.run(listener))
