"""The server's connection to the engine process: sends requests, receives tokens."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shardwise.engine.engine import Output
from shardwise.engine.engine_process import EngineInfo, Load, Refused, engine_main
from shardwise.engine.options import EngineOptions
from shardwise.engine.scheduler import SamplingParams
from shardwise.errors import InputError, ShardwiseError

STOP_TIMEOUT_S = 5


class EngineDownError(ShardwiseError):
    """The engine process has ended or hangs."""

    exit_code = 1


class EngineClient:
    """Sends requests to the engine process, and delivers tokens to one queue per request.

    Commands and replies have separate one-way pipes. One thread writes commands and one reads
    replies, both with blocking calls, so messages of any size are transferred whole and neither
    direction waits for the other. If a thread ends unexpectedly, the replica exits.
    """

    def __init__(self, on_down: Callable[[str], None]) -> None:
        self.load = Load()
        self.steps = 0  #: set when the engine has ended
        self.down = ""  #: why the engine ended; empty while it runs
        self._on_down = on_down
        self._stopping = False
        self._streams: dict[str, asyncio.Queue[Output | ShardwiseError]] = {}
        self._unfinished: set[str] = set()  #: requests that the engine has not ended yet
        self._cancelled: set[str] = set()  #: those of them that its next reply ends
        self._last_sign_s = (
            0.0  #: when the engine last completed a step, or received work while idle
        )
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()

    @property
    def in_flight(self) -> int:
        """Number of requests without a complete answer."""
        return len(self._streams)

    @property
    def stalled_s(self) -> float:
        """Seconds since the busy engine last completed a step; 0 while idle."""
        return time.monotonic() - self._last_sign_s if self._unfinished else 0.0

    async def start(self, path: Path, options: EngineOptions) -> EngineInfo:
        """Spawn the engine and wait until it is loaded. Raises the error if it fails."""
        context = multiprocessing.get_context("spawn")
        their_commands, self._commands = context.Pipe(duplex=False)
        self._replies, their_replies = context.Pipe(duplex=False)
        self._process = context.Process(
            target=engine_main,
            args=(path, options, their_commands, their_replies, os.getpid()),
            name="shardwise-engine",
        )
        self._process.start()
        their_commands.close()
        their_replies.close()
        self._loop = asyncio.get_running_loop()
        try:
            first = await self._loop.run_in_executor(None, self._replies.recv)
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise EngineDownError(f"the engine ended while loading, exit code {code}") from None
        if isinstance(first, ShardwiseError):
            raise first
        assert isinstance(first, EngineInfo)
        for work in (self._send_all, self._receive_all):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()
        return first

    def submit(
        self, request_id: str, prompt: list[int], params: SamplingParams
    ) -> asyncio.Queue[Output | ShardwiseError]:
        """Submit a request; its tokens, or the error that ends it, are put in the queue."""
        stream: asyncio.Queue[Output | ShardwiseError] = asyncio.Queue()
        self._streams[request_id] = stream
        if self.down:
            stream.put_nowait(EngineDownError(self.down))
            return stream
        if not self._unfinished:
            self._last_sign_s = time.monotonic()
        self._unfinished.add(request_id)
        self._outbox.put(("add", request_id, prompt, params))
        return stream

    def release(self, request_id: str, finished: bool) -> None:
        """Release a request whose client has finished or disconnected."""
        self._streams.pop(request_id, None)
        if not finished and request_id in self._unfinished:
            self._cancelled.add(request_id)
            self._outbox.put(("cancel", request_id))

    def fail(self, why: str) -> None:
        """Give up the engine: every stream ends with an error, and the server is notified."""
        if self.down or self._stopping:
            return
        self.down = why
        self._unfinished.clear()
        for stream in self._streams.values():
            stream.put_nowait(EngineDownError(why))
        self._on_down(why)

    def stop(self) -> None:
        """Stop the engine process and wait for it; its ranks stop with it."""
        self._stopping = True
        self._outbox.put(("stop",))
        self._outbox.put(None)
        self._process.join(timeout=0 if self.down else STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _run(self, work: Callable[[], None]) -> None:
        """Main function of a thread. If it ends unexpectedly, the replica exits."""
        try:
            work()
            return
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(timeout=1)
            why = f"the engine process died, exit code {self._process.exitcode}"
        except Exception as e:  # noqa: BLE001 - nobody else would hear of it
            why = f"the connection to the engine failed: {type(e).__name__}: {e}"
        self._on_loop(self.fail, why)

    def _send_all(self) -> None:
        while (message := self._outbox.get()) is not None:
            self._commands.send(message)

    def _receive_all(self) -> None:
        while True:
            message = self._replies.recv()
            self._last_sign_s = time.monotonic()
            self._on_loop(self._take, message)

    def _on_loop(self, call: Callable[[Any], None], argument: Any) -> None:
        with suppress(RuntimeError):  # the event loop is closed because the server has ended
            self._loop.call_soon_threadsafe(call, argument)

    def _take(self, message: Any) -> None:
        try:
            self._hand_out(message)
        except Exception as e:  # noqa: BLE001 - the loop would log it and leave the clients waiting
            self.fail(f"the engine's reply is invalid: {type(e).__name__}: {e}")

    def _hand_out(self, message: Any) -> None:
        if isinstance(message, Refused):
            self._unfinished.discard(message.request_id)
            self._deliver(message.request_id, InputError(message.message))
            return
        outputs, self.load = message
        self.steps += 1
        self._unfinished -= self._cancelled
        self._cancelled.clear()
        for output in outputs:
            if output.finish_reason:
                self._unfinished.discard(output.request_id)
            self._deliver(output.request_id, output)

    def _deliver(self, request_id: str, item: Output | ShardwiseError) -> None:
        if stream := self._streams.get(request_id):
            stream.put_nowait(item)
